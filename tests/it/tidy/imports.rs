//! Which file of `src` takes a name from which other, and which crates it uses; what only tests
//! compile is left out.
//!
//! Names are followed through `use`, through re-exports and through modules that are imported by name.
//! What is called on a value (a method, a field) names no file, and is no import.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::{Tree, rust};

/// `["web", "jobs"]` of `src/web/jobs.rs`; `["web"]` of `src/web/mod.rs`; `[]` of `src/lib.rs`. Programs
/// are crates of their own: `["bin", "mistry"]`.
type Module = Vec<String>;
type Name = Vec<String>;

/// The files of `src`, with what each takes from where.
pub struct Imports {
    files: BTreeMap<Module, File>,
}

#[derive(Default)]
struct File {
    path: String,
    /// Modules that it declares.
    children: BTreeSet<String>,
    /// Names that `use` brings, and what each stands for; a glob has the name `*`.
    brought: Vec<(String, Name)>,
    /// Names that it mentions elsewhere than in a re-export.
    mentioned: BTreeSet<Name>,
    /// Names that it defines.
    defined: BTreeSet<String>,
}

impl Imports {
    /// Of all Rust files of a tree.
    pub fn of(tree: &Tree) -> Imports {
        let mut files = BTreeMap::new();
        let mut tests: Vec<Module> = Vec::new();
        for (path, text) in rust(tree) {
            let module = module(path);
            let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
            let mut reader = Reader::default();
            reader.visit_file(&parsed);
            tests.extend(reader.tests.into_iter().map(|name| child(&module, &name)));
            let file = File {
                path: path.clone(),
                ..reader.file
            };
            files.insert(module, file);
        }
        files.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        Imports { files }
    }

    /// The paths of all files that ship.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.values().map(|file| file.path.as_str())
    }

    /// Which files each file takes a name from, by path.
    pub fn between_files(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let edges = self.files.iter().map(|(module, file)| {
            let mentioned = file.mentioned.iter();
            let found = mentioned.filter_map(|name| self.home(module, name, 0));
            let found = found.map(|home| self.files[&home].path.as_str());
            let others = found.filter(|other| *other != file.path);
            (file.path.as_str(), others.collect())
        });
        edges.collect()
    }

    /// The modules right below this crate that each file names, by path: also in re-exports and globs.
    pub fn named_modules(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let named = self.files.values().map(|file| {
            let brought = file.brought.iter().map(|(_, name)| name);
            let names = file.mentioned.iter().chain(brought);
            let below = names.filter_map(|name| match name.as_slice() {
                [root, module, ..] if root == "crate" || root == "mistry" => Some(module.as_str()),
                _ => None,
            });
            (file.path.as_str(), below.collect())
        });
        named.collect()
    }

    /// The first names of all paths, by file: crates are among them.
    pub fn heads(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let heads = self.files.values().map(|file| {
            let brought = file.brought.iter().map(|(_, name)| name);
            // One name alone may be a variable.
            let mentioned = file.mentioned.iter().filter(|name| name.len() > 1);
            let names = mentioned.chain(brought);
            let heads = names.map(|name| name[0].as_str());
            (file.path.as_str(), heads.collect())
        });
        heads.collect()
    }

    /// The file that defines what a module means by a name; `None` for what is of another crate.
    fn home(&self, module: &Module, name: &[String], depth: usize) -> Option<Module> {
        // A re-export of itself is no Rust, but a test that does not end is no test.
        let (first, rest) = name.split_first().filter(|_| depth < 16)?;
        let file = self.files.get(module)?;
        match first.as_str() {
            "crate" => self.home_below(&root(module), rest, depth),
            "mistry" if module.first().is_some_and(|m| m == "bin") => {
                self.home_below(&Vec::new(), rest, depth)
            }
            "self" => self.home_below(module, rest, depth),
            "super" => {
                let above = module.split_last()?.1.to_vec();
                match rest.first().is_some_and(|next| next == "super") {
                    true => self.home(&above, rest, depth),
                    false => self.home_below(&above, rest, depth),
                }
            }
            _ if file.children.contains(first) => {
                self.home_below(&child(module, first), rest, depth)
            }
            _ => {
                let (_, whole) = file.brought.iter().find(|(known, _)| known == first)?;
                let whole: Name = whole.iter().chain(rest).cloned().collect();
                // `use x::y` in an edition where `x` may be a crate or a module beside it.
                (whole != name).then(|| self.home(module, &whole, depth + 1))?
            }
        }
    }

    /// The same of a name below a module: a child, a re-export, or its own.
    fn home_below(&self, module: &Module, name: &[String], depth: usize) -> Option<Module> {
        let Some((first, rest)) = name.split_first() else {
            // A module as a whole: what is taken out of it is looked at by its name.
            return None;
        };
        let file = self.files.get(module)?;
        if file.defined.contains(first) {
            return Some(module.clone());
        }
        let brings = file.brought.iter().any(|(known, _)| known == first);
        if file.children.contains(first) && (!rest.is_empty() || !brings) {
            return self.home_below(&child(module, first), rest, depth);
        }
        if brings {
            return self.home(module, name, depth + 1);
        }
        let mut globs = file.brought.iter().filter(|(known, _)| known == "*");
        let through = globs.find_map(|(_, whole)| {
            let whole: Name = whole.iter().chain(name).cloned().collect();
            self.home(module, &whole, depth + 1)
        });
        // What a macro defines is not seen.
        through.or_else(|| Some(module.clone()))
    }
}

/// Files that import each other, each circle named by its files.
pub fn circles(edges: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<String> {
    let reach = |from: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(at) = open.pop() {
            for next in edges.get(at.as_str()).into_iter().flatten() {
                if seen.insert((*next).to_owned()) {
                    open.push((*next).to_owned());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<String>> =
        edges.keys().map(|path| (*path, reach(path))).collect();
    let mut found = BTreeSet::new();
    for (path, others) in &reached {
        let is_back = |other: &&String| reached[other.as_str()].contains(*path);
        let circle: Vec<&str> = others.iter().filter(is_back).map(String::as_str).collect();
        if !circle.is_empty() {
            found.insert(circle);
        }
    }
    let messages = found.into_iter().map(|circle| {
        let inside = circle.iter().flat_map(|path| {
            let others = edges[path].iter().filter(|other| circle.contains(other));
            others.map(move |other| format!("  {path} imports {other}"))
        });
        let inside: Vec<_> = inside.collect();
        format!("a circle of {} files:\n{}", circle.len(), inside.join("\n"))
    });
    messages.collect()
}

fn module(path: &str) -> Module {
    let inside = Path::new(path.strip_prefix("src/").unwrap_or(path)).with_extension("");
    let mut module: Module = inside
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
        module.pop();
    }
    module
}

fn root(module: &Module) -> Module {
    match module.first().is_some_and(|first| first == "bin") {
        true => module.clone(),
        false => Vec::new(),
    }
}

fn child(module: &[String], name: &str) -> Module {
    let mut module = module.to_vec();
    module.push(name.to_owned());
    module
}

/// Reads one file.
#[derive(Default)]
struct Reader {
    file: File,
    /// Modules in files of their own that only tests compile.
    tests: Vec<String>,
}

impl Reader {
    fn import(&mut self, tree: &syn::UseTree, before: &Name, is_export: bool) {
        let with = |name: &syn::Ident| child(before, &name.to_string());
        let (known, whole) = match tree {
            syn::UseTree::Path(path) => {
                return self.import(&path.tree, &with(&path.ident), is_export);
            }
            syn::UseTree::Group(group) => {
                return group
                    .items
                    .iter()
                    .for_each(|item| self.import(item, before, is_export));
            }
            syn::UseTree::Glob(_) => ("*".to_owned(), before.clone()),
            syn::UseTree::Name(name) if name.ident == "self" => {
                (before.last().cloned().unwrap_or_default(), before.clone())
            }
            syn::UseTree::Name(name) => (name.ident.to_string(), with(&name.ident)),
            syn::UseTree::Rename(name) => (name.rename.to_string(), with(&name.ident)),
        };
        if !is_export {
            self.file.mentioned.insert(whole.clone());
        }
        self.file.brought.push((known, whole));
    }

    /// The names in what a macro is given.
    fn scan(&mut self, tokens: TokenStream) {
        let mut name = Name::new();
        let mut joins = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(word) if joins == 2 || name.is_empty() => {
                    name.push(word.to_string());
                    joins = 0;
                    continue;
                }
                TokenTree::Punct(sign) if sign.as_char() == ':' && !name.is_empty() => {
                    joins += 1;
                    continue;
                }
                TokenTree::Group(group) => self.scan(group.stream()),
                TokenTree::Ident(word) => {
                    let before = std::mem::replace(&mut name, vec![word.to_string()]);
                    self.file.mentioned.insert(before);
                    joins = 0;
                    continue;
                }
                _ => {}
            }
            if !name.is_empty() {
                self.file.mentioned.insert(std::mem::take(&mut name));
            }
            joins = 0;
        }
        if !name.is_empty() {
            self.file.mentioned.insert(name);
        }
    }
}

/// Whether only tests, or tests and fuzz targets, compile what has these attributes.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string().replace(' ', "");
            condition == "test" || condition == "any(test,fuzzing)"
        }
        _ => false,
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if is_test(attributes(item)) {
            if let syn::Item::Mod(inside) = item
                && inside.content.is_none()
            {
                self.tests.push(inside.ident.to_string());
            }
            return;
        }
        let defined = match item {
            syn::Item::Const(item) => Some(&item.ident),
            syn::Item::Enum(item) => Some(&item.ident),
            syn::Item::Fn(item) => Some(&item.sig.ident),
            syn::Item::Static(item) => Some(&item.ident),
            syn::Item::Struct(item) => Some(&item.ident),
            syn::Item::Trait(item) => Some(&item.ident),
            syn::Item::Type(item) => Some(&item.ident),
            syn::Item::Mod(item) if item.content.is_some() => Some(&item.ident),
            syn::Item::Mod(item) => {
                self.file.children.insert(item.ident.to_string());
                None
            }
            syn::Item::Use(item) => {
                let is_export = !matches!(item.vis, syn::Visibility::Inherited);
                self.import(&item.tree, &Name::new(), is_export);
                None
            }
            _ => None,
        };
        self.file.defined.extend(defined.map(ToString::to_string));
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let name = path.segments.iter().map(|part| part.ident.to_string());
        self.file.mentioned.insert(name.collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, given: &'ast syn::Macro) {
        self.scan(given.tokens.clone());
        visit::visit_macro(self, given);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }
}

#[test]
fn names_are_followed_to_the_file_that_defines_them() {
    let files = [
        ("src/lib.rs", "mod a; mod b;"),
        (
            "src/a/mod.rs",
            "mod one; mod two; mod three; pub use one::One; pub use two::*;",
        ),
        (
            "src/a/one.rs",
            "use super::two; pub struct One; fn f() { two::g() }",
        ),
        (
            "src/a/two.rs",
            "pub fn g() {} #[cfg(test)] mod tests { use super::super::one; }",
        ),
        (
            "src/a/three.rs",
            "use super::One; fn f(x: One) { vec![super::g()]; #[derive(serde::Serialize)] struct S; }",
        ),
        (
            "src/b.rs",
            "use crate::a::{One as Other, g}; #[cfg(test)] mod tests;",
        ),
        ("src/b/tests.rs", "use crate::a;"),
    ];
    let files = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
    let imports = Imports::of(&Tree::from(files));
    let edges = imports.between_files();
    let of = |path: &str| edges[path].iter().copied().collect::<Vec<_>>();
    assert_eq!(of("src/a/mod.rs"), [""; 0]);
    assert_eq!(of("src/a/one.rs"), ["src/a/two.rs"]);
    assert_eq!(of("src/a/two.rs"), [""; 0]);
    assert_eq!(of("src/a/three.rs"), ["src/a/one.rs", "src/a/two.rs"]);
    assert_eq!(of("src/b.rs"), ["src/a/one.rs", "src/a/two.rs"]);
    assert!(imports.heads()["src/a/three.rs"].contains("serde"));
    assert!(imports.paths().all(|path| path != "src/b/tests.rs"));
    assert!(circles(&edges).is_empty());
    let mut edges = edges.clone();
    edges.insert("src/a/two.rs", BTreeSet::from(["src/a/three.rs"]));
    assert_eq!(circles(&edges).len(), 1);
}
