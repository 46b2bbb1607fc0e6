//! The attribute `#[test]` of files whose tests may be skipped: it registers a function with the
//! harness of the crate `needs`, which re-exports it. Knows nothing about what a test needs.

use proc_macro::{TokenStream, TokenTree};

/// Registers a function without arguments as a test.
#[proc_macro_attribute]
pub fn test(_: TokenStream, function: TokenStream) -> TokenStream {
    let mut words = function.clone().into_iter().filter_map(|tree| match tree {
        TokenTree::Ident(word) => Some(word.to_string()),
        _ => None,
    });
    let name = words.by_ref().skip_while(|word| word != "fn").nth(1);
    let name = name.expect("`#[test]` stands before a function");
    let registered = format!(
        "::needs::inventory::submit! {{ ::needs::Test {{
            module: ::core::module_path!(), name: \"{name}\", run: {name},
        }} }}"
    );
    let mut both = function;
    both.extend(registered.parse::<TokenStream>().expect("it is Rust"));
    both
}
