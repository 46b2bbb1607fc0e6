//! The packages of the workspace as cargo reads them: roots, and dependencies by kind.

use std::process::Command;

use serde_json::Value;

use crate::sources::top;

/// A package of the workspace.
#[derive(Debug, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Its folder, from the workspace's.
    pub(crate) folder: String,
    /// The root of its library, if it has one.
    pub(crate) library: Option<String>,
    /// The roots of its programs.
    pub(crate) programs: Vec<String>,
    /// The roots of its tests.
    pub(crate) tests: Vec<String>,
    /// The packages its library and programs use.
    pub(crate) normal: Vec<String>,
    /// The packages that only its tests, benchmarks and build script use.
    pub(crate) others: Vec<String>,
}

/// The packages of the workspace, and the probes, which are built for the kernel and apart.
pub(crate) fn all() -> Vec<Package> {
    ["Cargo.toml", "ebpf/probes/Cargo.toml"].iter().flat_map(|manifest| query(manifest)).collect()
}

impl Package {
    /// Whether it uses another package by itself, its tests included.
    pub(crate) fn depends_on(&self, name: &str) -> bool {
        self.normal.iter().chain(&self.others).any(|used| used == name)
    }
}

/// The package in whose folder a file is.
pub(crate) fn owner<'a>(file: &str, packages: &'a [Package]) -> Option<&'a Package> {
    let inside = |package: &&Package| {
        file.strip_prefix(&package.folder).is_some_and(|rest| rest.starts_with('/'))
    };
    packages.iter().filter(inside).max_by_key(|package| package.folder.len())
}

/// Packages of ours that a lock file names with another version than their manifest does: with
/// `--locked`, cargo refuses such a file.
pub(crate) fn lock_faults(file: &str, lock: &str, packages: &[Package]) -> Vec<String> {
    let entries = lock.split("[[package]]").skip(1);
    let field = |entry: &str, key: &str| {
        let line = entry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let ours = entries.filter(|entry| field(entry, "source").is_none());
    ours.filter_map(|entry| {
        let (name, locked) = (field(entry, "name")?, field(entry, "version")?);
        let package = packages.iter().find(|package| package.name == name)?;
        (package.version != locked).then(|| {
            format!("{file}: {name} is {locked}, its manifest says {}: build it", package.version)
        })
    })
    .collect()
}

/// The packages of the workspace.
pub(crate) fn of_the_workspace() -> Vec<Package> {
    query("Cargo.toml")
}

fn query(manifest: &str) -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let answer = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version=1", "--manifest-path"])
        .arg(manifest)
        .current_dir(top())
        .output()
        .expect("cargo is there");
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let answer: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    read(&answer, top().to_str().expect("a path in UTF-8"))
}

/// The packages in what `cargo metadata` answers; `top` is the folder of the workspace.
fn read(answer: &Value, top: &str) -> Vec<Package> {
    let packages = answer["packages"].as_array().expect("packages");
    packages.iter().map(|package| read_package(package, top)).collect()
}

fn read_package(package: &Value, top: &str) -> Package {
    let relative = |path: &Value| {
        let path = path.as_str().expect("a path");
        path.strip_prefix(top).unwrap_or(path).trim_start_matches('/').to_owned()
    };
    let manifest = relative(&package["manifest_path"]);
    let mut read = Package {
        name: package["name"].as_str().expect("a name").to_owned(),
        version: package["version"].as_str().expect("a version").to_owned(),
        folder: manifest.trim_end_matches("Cargo.toml").trim_end_matches('/').to_owned(),
        ..Package::default()
    };
    for target in package["targets"].as_array().into_iter().flatten() {
        match target["kind"][0].as_str() {
            Some("test") => read.tests.push(relative(&target["src_path"])),
            Some("bin") => read.programs.push(relative(&target["src_path"])),
            Some(kind) if kind == "proc-macro" || kind.ends_with("lib") => {
                read.library = Some(relative(&target["src_path"]));
            }
            _ => {}
        }
    }
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let name = dependency["name"].as_str().expect("a name").to_owned();
        if dependency["kind"].is_null() {
            read.normal.push(name);
        } else {
            read.others.push(name);
        }
    }
    read
}

#[test]
fn packages_are_read_from_the_answer() {
    let answer = serde_json::json!({ "packages": [{
        "name": "wire",
        "version": "1.2.3",
        "manifest_path": "/top/lab-server/wire/Cargo.toml",
        "targets": [
            { "kind": ["lib"], "src_path": "/top/lab-server/wire/src/lib.rs" },
            { "kind": ["bin"], "src_path": "/top/lab-server/wire/src/main.rs" },
            { "kind": ["test"], "src_path": "/top/lab-server/wire/tests/codec.rs" },
        ],
        "dependencies": [
            { "name": "thiserror", "kind": null },
            { "name": "proptest", "kind": "dev" },
        ],
    }] });
    let packages = read(&answer, "/top");
    let [wire] = &packages[..] else { panic!("{packages:?}") };
    assert_eq!((wire.name.as_str(), wire.folder.as_str()), ("wire", "lab-server/wire"));
    assert_eq!(wire.version, "1.2.3");
    assert_eq!(wire.library.as_deref(), Some("lab-server/wire/src/lib.rs"));
    assert_eq!(wire.programs, ["lab-server/wire/src/main.rs"]);
    assert_eq!(wire.tests, ["lab-server/wire/tests/codec.rs"]);
    assert_eq!(wire.normal, ["thiserror"]);
    assert_eq!(wire.others, ["proptest"]);
}

#[test]
fn a_lock_file_with_an_old_version_of_ours_is_a_fault() {
    let wire = Package { name: "wire".into(), version: "2.0.0".into(), ..Package::default() };
    let lock = |version: &str| {
        let ours = format!("[[package]]\nname = \"wire\"\nversion = \"{version}\"\n");
        format!(
            "version = 4\n\n{ours}\n[[package]]\nname = \"libc\"\nversion = \"0.2.1\"\n\
            source = \"registry\"\n"
        )
    };
    let packages = [wire];
    assert_eq!(lock_faults("Cargo.lock", &lock("2.0.0"), &packages), [""; 0]);
    assert_eq!(
        lock_faults("Cargo.lock", &lock("1.0.0"), &packages),
        ["Cargo.lock: wire is 1.0.0, its manifest says 2.0.0: build it"]
    );
}
