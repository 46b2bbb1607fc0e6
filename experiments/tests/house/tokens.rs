//! Walks tokens for the paths and imports they name, inside macros as well. Knows no syntax but
//! `a::b::c` and `use …;`.

use proc_macro2::{Literal, TokenStream, TokenTree};
use syn::UseTree;

/// Calls `path` for every path (most have one segment) and `import` for every `use` in the tokens.
/// Strings count where they name code: see [`paths_in`].
pub(crate) fn walk(
    tokens: TokenStream,
    path: &mut impl FnMut(Vec<String>),
    import: &mut impl FnMut(UseTree),
) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while let Some(tree) = tokens.get(at) {
        at += 1;
        match tree {
            TokenTree::Group(group) => walk(group.stream(), path, import),
            TokenTree::Literal(literal) => paths_in(literal).into_iter().for_each(&mut *path),
            TokenTree::Ident(word) if word == "use" => {
                let length = tokens[at..].iter().position(is_semicolon);
                let tree = length.and_then(|length| {
                    let tree = tokens[at..at + length].iter().cloned().collect();
                    syn::parse2::<UseTree>(tree).ok()
                });
                // The words of the import are walked as well: they are identifiers of the file.
                tree.into_iter().for_each(&mut *import);
            }
            TokenTree::Ident(word) => {
                let mut segments = vec![plain(word)];
                let leads_out = at > 2 && tokens[at - 3..at - 1].iter().all(is_colon);
                while let Some(TokenTree::Ident(next)) = tokens.get(at + 2)
                    && tokens[at..at + 2].iter().all(is_colon)
                {
                    segments.push(plain(next));
                    at += 3;
                }
                if leads_out {
                    // What follows `<T as Trait>::` or a leading `::` is no path from here.
                    segments.into_iter().for_each(|segment| path(vec![segment]));
                } else {
                    path(segments);
                }
            }
            TokenTree::Punct(_) => {}
        }
    }
}

/// The paths a string names: `text::seconds` of `#[serde(with = "text::seconds")]`, and `rate` of
/// `"{rate:.1} a second"`.
fn paths_in(literal: &Literal) -> Vec<Vec<String>> {
    let text = literal.to_string();
    let Some(text) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        return Vec::new();
    };
    let is_word = |text: &str| {
        !text.is_empty() && text.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
    };
    if text.contains("::") && text.split("::").all(is_word) {
        return vec![text.split("::").map(str::to_owned).collect()];
    }
    let formatted = text.split('{').skip(1).filter_map(|rest| rest.split([':', '}']).next());
    formatted.filter(|name| is_word(name)).map(|name| vec![name.to_owned()]).collect()
}

/// An identifier without the mark of a raw one.
pub(crate) fn plain(ident: &proc_macro2::Ident) -> String {
    let name = ident.to_string();
    match name.strip_prefix("r#") {
        Some(name) => name.to_owned(),
        None => name,
    }
}

fn is_colon(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Punct(punct) if punct.as_char() == ':')
}

fn is_semicolon(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Punct(punct) if punct.as_char() == ';')
}

#[test]
fn paths_are_found_in_code_macros_and_strings() {
    let code = r##"
        #[serde(with = "text::seconds")] // not::this
        fn f() { use super::{a, b::c}; println!("{width:.1} {} {{", <T as One>::two(r#type::x)); }
    "##;
    let (mut paths, mut imports) = (Vec::new(), 0);
    let mut record = |path: Vec<String>| paths.push(path.join("::"));
    walk(code.parse().expect("tokens"), &mut record, &mut |_| imports += 1);
    for expected in ["text::seconds", "width", "One", "two", "type::x"] {
        assert!(paths.iter().any(|path| path == expected), "{expected}: {paths:?}");
    }
    assert!(paths.iter().all(|path| !path.contains("not")), "{paths:?}");
    assert_eq!(imports, 1);
}
