//! Reads one Rust file into plain facts: functions with their lengths, modules with their items,
//! imports and paths, and every identifier. Knows neither other files nor what is a fault.
//!
//! Syntax trees cannot cross threads and parsing is the slow part of the watch, so each file is
//! parsed once and only these facts stay. Modules under `#[cfg(test)]` give functions and
//! identifiers, but no items, imports or paths.

use std::collections::BTreeSet;

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::visit::Visit;
use syn::{Fields, Item as Syntax, UseTree, Visibility};

use crate::tokens::{plain, walk};

/// The identifiers that a piece of code names.
pub(crate) type Names = BTreeSet<String>;

/// What one file holds.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) functions: Vec<Function>,
    pub(crate) root: Module,
    /// Every identifier of the file, those in tests included and those in comments not.
    pub(crate) identifiers: Names,
}

/// A function with a body.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// The line of the word `fn`.
    pub(crate) line: usize,
    /// From that line to the closing brace, both included.
    pub(crate) lines: usize,
}

/// A module: a file, or a module inside one.
#[derive(Debug, Default)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) public: bool,
    /// The file that `#[path]` names.
    pub(crate) path: Option<String>,
    /// Whether its contents stand in this file.
    pub(crate) inline: bool,
    pub(crate) items: Vec<Item>,
    pub(crate) implementations: Vec<Implementation>,
    pub(crate) imports: Vec<Import>,
    /// Paths of two segments or more that its code names, imports aside.
    pub(crate) paths: BTreeSet<Vec<String>>,
    /// The identifiers of its code, imports aside.
    pub(crate) identifiers: Names,
    /// The identifiers of macro calls beside its items: they may declare what is not seen.
    pub(crate) macro_calls: Names,
    pub(crate) modules: Vec<Module>,
}

/// Something that a module declares under a name of its own.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) public: bool,
    pub(crate) line: usize,
    /// The identifiers of its signature, or of the fields and variants that users see.
    pub(crate) signature: Names,
}

/// An `impl` block.
#[derive(Debug)]
pub(crate) struct Implementation {
    pub(crate) type_name: String,
    /// The identifiers of its header, and for a trait those of its associated types.
    pub(crate) header: Names,
    /// The public functions of an inherent block.
    pub(crate) methods: Vec<Item>,
}

/// One name that a `use` brings in.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) segments: Vec<String>,
    /// The name it has here; none for a glob.
    pub(crate) name: Option<String>,
    pub(crate) visibility: Reach,
    pub(crate) line: usize,
}

/// Who may use a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// This module and those inside.
    Private,
    /// `pub(crate)` and the like.
    Restricted,
    Public,
}

/// The facts of a file, or why it cannot be parsed.
pub(crate) fn read(text: &str) -> syn::Result<Facts> {
    let tokens: TokenStream = text.parse()?;
    let mut facts = Facts::default();
    walk(tokens.clone(), &mut |path| facts.identifiers.extend(path.iter().cloned()), &mut |_| {});
    let file: syn::File = syn::parse2(tokens)?;
    let mut lengths = Lengths::default();
    lengths.visit_file(&file);
    facts.functions = lengths.0;
    facts.root.fill(&file.items);
    Ok(facts)
}

#[derive(Default)]
struct Lengths(Vec<Function>);

impl Lengths {
    fn push(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let line = signature.fn_token.span.start().line;
        let end = block.brace_token.span.close().end().line;
        self.0.push(Function { name: signature.ident.to_string(), line, lines: end - line + 1 });
    }
}

impl<'ast> Visit<'ast> for Lengths {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.push(&function.sig, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.push(&function.sig, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.push(&function.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, function);
    }
}

impl Module {
    fn fill(&mut self, items: &[Syntax]) {
        for item in items.iter().filter(|item| !only_in_tests(attributes(item))) {
            match item {
                Syntax::Use(import) => self.import(import),
                Syntax::Mod(module) => self.module(module),
                Syntax::Impl(block) => self.implementation(block),
                item => {
                    if let Syntax::Macro(call) = item
                        && call.ident.is_none()
                    {
                        self.macro_calls.extend(words(&call.mac));
                    }
                    self.items.extend(declared(item));
                    self.scan(item.to_token_stream());
                }
            }
        }
    }

    fn module(&mut self, module: &syn::ItemMod) {
        let mut inner = Module {
            name: plain(&module.ident),
            public: is_public(&module.vis),
            path: module.attrs.iter().find_map(path_of),
            inline: module.content.is_some(),
            ..Module::default()
        };
        if let Some((_, items)) = &module.content {
            inner.fill(items);
        }
        self.modules.push(inner);
    }

    fn implementation(&mut self, block: &syn::ItemImpl) {
        let mut block = block.clone();
        block.items.retain(|item| match item {
            syn::ImplItem::Fn(function) => !only_in_tests(&function.attrs),
            syn::ImplItem::Const(constant) => !only_in_tests(&constant.attrs),
            _ => true,
        });
        self.scan(block.to_token_stream());
        let syn::Type::Path(path) = &*block.self_ty else { return };
        let Some(last) = path.path.segments.last() else { return };
        let type_name = plain(&last.ident);
        let mut header = words(&block.self_ty);
        header.extend(words(&block.generics));
        let mut methods = Vec::new();
        if let Some((_, of_trait, _)) = &block.trait_ {
            header.extend(words(of_trait));
        }
        for item in &block.items {
            match item {
                syn::ImplItem::Type(associated) => header.extend(words(associated)),
                syn::ImplItem::Fn(function) => methods.extend(method(&type_name, function)),
                syn::ImplItem::Const(constant) => methods.extend(constant_of(&type_name, constant)),
                _ => {}
            }
        }
        let header = header.into_iter().collect();
        self.implementations.push(Implementation { type_name, header, methods });
    }

    fn import(&mut self, import: &syn::ItemUse) {
        let visibility = match &import.vis {
            Visibility::Public(_) => Reach::Public,
            Visibility::Restricted(_) => Reach::Restricted,
            Visibility::Inherited => Reach::Private,
        };
        let mut start = Vec::new();
        if import.leading_colon.is_some() {
            // No module has this name: the path leads out of the crate.
            start.push("::".to_owned());
        }
        self.flatten(&import.tree, &start, visibility);
    }

    fn flatten(&mut self, tree: &UseTree, before: &[String], visibility: Reach) {
        let mut push = |name: Option<String>, segments: Vec<String>, line| {
            self.imports.push(Import { segments, name, visibility, line });
        };
        let with = |ident: &syn::Ident| {
            let ident = plain(ident);
            if ident == "self" && !before.is_empty() {
                return before.to_vec();
            }
            [before, &[ident]].concat()
        };
        match tree {
            UseTree::Path(path) => self.flatten(&path.tree, &with(&path.ident), visibility),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.flatten(tree, before, visibility);
                }
            }
            UseTree::Name(name) => {
                let segments = with(&name.ident);
                push(segments.last().cloned(), segments, name.ident.span().start().line);
            }
            UseTree::Rename(rename) => {
                let line = rename.ident.span().start().line;
                push(Some(plain(&rename.rename)), with(&rename.ident), line);
            }
            UseTree::Glob(glob) => {
                push(None, before.to_vec(), glob.star_token.spans[0].start().line);
            }
        }
    }

    /// Adds the paths and identifiers of some code, and the imports inside functions, which count
    /// as imports of the module.
    fn scan(&mut self, tokens: TokenStream) {
        let mut trees = Vec::new();
        let (paths, identifiers) = (&mut self.paths, &mut self.identifiers);
        walk(
            tokens,
            &mut |path| {
                identifiers.extend(path.iter().cloned());
                if path.len() > 1 {
                    paths.insert(path);
                }
            },
            &mut |tree| trees.push(tree),
        );
        for tree in trees {
            self.flatten(&tree, &[], Reach::Private);
        }
    }
}

/// What an item declares, if it has a name.
fn declared(item: &Syntax) -> Option<Item> {
    let (name, kind, vis, signature) = match item {
        Syntax::Fn(function) => (&function.sig.ident, "fn", &function.vis, words(&function.sig)),
        Syntax::Struct(item) => {
            let signature = [words(&item.generics), fields(&item.fields)].concat();
            (&item.ident, "struct", &item.vis, signature)
        }
        Syntax::Union(item) => (&item.ident, "union", &item.vis, words(&item.generics)),
        Syntax::Enum(item) => {
            let variants = item.variants.iter().flat_map(|variant| words(&variant.fields));
            let signature = words(&item.generics).into_iter().chain(variants).collect();
            (&item.ident, "enum", &item.vis, signature)
        }
        Syntax::Trait(item) => (&item.ident, "trait", &item.vis, words(item)),
        Syntax::Type(item) => (&item.ident, "type", &item.vis, words(item)),
        Syntax::Const(item) => (&item.ident, "const", &item.vis, words(&item.ty)),
        Syntax::Static(item) => (&item.ident, "static", &item.vis, words(&item.ty)),
        Syntax::Macro(item) => {
            let name = item.ident.as_ref()?;
            let exported = item.attrs.iter().any(|one| one.path().is_ident("macro_export"));
            let names = words(&item.mac.tokens).into_iter().collect();
            let line = name.span().start().line;
            let (name, kind) = (plain(name), "macro");
            return Some(Item { name, kind, public: exported, line, signature: names });
        }
        _ => return None,
    };
    Some(Item {
        name: plain(name),
        kind,
        public: is_public(vis),
        line: name.span().start().line,
        signature: signature.into_iter().collect(),
    })
}

fn method(type_name: &str, function: &syn::ImplItemFn) -> Option<Item> {
    is_public(&function.vis).then(|| Item {
        name: plain(&function.sig.ident),
        kind: "fn",
        public: true,
        line: function.sig.ident.span().start().line,
        signature: words(&function.sig).into_iter().filter(|word| word != type_name).collect(),
    })
}

fn constant_of(type_name: &str, constant: &syn::ImplItemConst) -> Option<Item> {
    is_public(&constant.vis).then(|| Item {
        name: plain(&constant.ident),
        kind: "const",
        public: true,
        line: constant.ident.span().start().line,
        signature: words(&constant.ty).into_iter().filter(|word| word != type_name).collect(),
    })
}

/// The words of the fields that users of the type see.
fn fields(fields: &Fields) -> Vec<String> {
    fields.iter().filter(|field| is_public(&field.vis)).flat_map(|field| words(&field.ty)).collect()
}

fn words(syntax: &impl ToTokens) -> Vec<String> {
    let mut words = Vec::new();
    walk(syntax.to_token_stream(), &mut |path| words.extend(path), &mut |_| {});
    words
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// The file that a `#[path = "…"]` names.
fn path_of(attribute: &syn::Attribute) -> Option<String> {
    let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
    let syn::Expr::Lit(value) = &pair.value else { return None };
    let syn::Lit::Str(path) = &value.lit else { return None };
    pair.path.is_ident("path").then(|| path.value())
}

/// Whether a `#[cfg]` asks for `test`.
fn only_in_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let words = words(&attribute.meta);
        words.iter().any(|word| word == "test") && words.iter().all(|word| word != "not")
    })
}

fn attributes(item: &Syntax) -> &[syn::Attribute] {
    match item {
        Syntax::Const(item) => &item.attrs,
        Syntax::Enum(item) => &item.attrs,
        Syntax::Fn(item) => &item.attrs,
        Syntax::Impl(item) => &item.attrs,
        Syntax::Macro(item) => &item.attrs,
        Syntax::Mod(item) => &item.attrs,
        Syntax::Static(item) => &item.attrs,
        Syntax::Struct(item) => &item.attrs,
        Syntax::Trait(item) => &item.attrs,
        Syntax::Type(item) => &item.attrs,
        Syntax::Use(item) => &item.attrs,
        _ => &[],
    }
}
