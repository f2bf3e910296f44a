//! Tests of the house itself: which room may know which, and that every kernel is complete. They read the source tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, and which others each may name. A room may always name itself.
const ARROWS: &[(&str, &str)] = &[
    ("error", "element"),
    ("float", "error"),
    ("element", "error float"),
    ("gradcheck", "error float"),
    ("rows", "error element"),
    // The judge of results, and numbers for cases.
    ("accuracy", "element"),
    ("random", ""),
    ("sparse", "error float element rows"),
    // What is true without a GPU: oracles and CPU kernels, with the options of their operation.
    ("reference", "error element float rows accuracy sparse ops solve"),
    // The probe draws its samples.
    ("gpu", "error element rows random sparse"),
    ("context", "error element rows sparse gpu reference tensor"),
    ("tensor", "error element rows sparse gpu reference context"),
    // What every one-shot does around its operation.
    ("job", "error element gpu context"),
    (
        "ops",
        "error float element rows accuracy sparse gpu reference context tensor job",
    ),
    (
        "solve",
        "error float element rows accuracy random sparse gpu reference context tensor job ops",
    ),
    // Cases are where an operation tells `verify` and `bench` what to try.
    (
        "cases",
        "error float element rows accuracy random sparse gpu reference context tensor job ops solve verify",
    ),
    (
        "verify",
        "error element rows accuracy sparse gpu reference context tensor ops solve cases",
    ),
    (
        "bench",
        "error element rows sparse gpu reference context tensor ops solve cases verify",
    ),
];

/// Rooms below the GPU: they must not know wgpu either.
const WITHOUT_GPU: &[&str] = &["error", "float", "element", "gradcheck", "rows", "sparse", "reference"];

/// WGSL builtins that drivers get wrong; the crate has its own.
const FORBIDDEN_BUILTINS: &[&str] = &["exp", "exp2", "log", "log2", "pow", "tanh"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` that end in `.extension`, in a fixed order.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("a readable folder").path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                walk(&path, extension, found);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), extension, &mut found);
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
        .replace('\\', "/")
}

/// The source with comments and the insides of literals blanked; line breaks stay, so line numbers hold.
fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let blank = |out: &mut String, c: char| out.push(if c == '\n' { '\n' } else { ' ' });
    let mut i = 0;
    while i < chars.len() {
        let rest = &chars[i..];
        let after_name = i > 0 && (chars[i - 1].is_alphanumeric() || chars[i - 1] == '_');
        let end = if rest.starts_with(&['/', '/']) {
            i + rest.iter().position(|&c| c == '\n').unwrap_or(rest.len())
        } else if rest.starts_with(&['/', '*']) {
            let mut depth = 0usize;
            let mut j = i;
            loop {
                if chars[j..].starts_with(&['/', '*']) {
                    depth += 1;
                    j += 2;
                } else if chars[j..].starts_with(&['*', '/']) {
                    depth -= 1;
                    j += 2;
                } else {
                    j += 1;
                }
                if depth == 0 || j >= chars.len() {
                    break j.min(chars.len());
                }
            }
        } else if let Some(hashes) = raw_string(rest).filter(|_| !after_name || chars[i - 1] == 'b') {
            let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            let body = i + hashes + 2;
            (body..chars.len())
                .find(|&j| chars[j..].starts_with(&close))
                .map_or(chars.len(), |j| j + close.len())
        } else if rest[0] == '"' {
            let mut j = i + 1;
            while j < chars.len() && chars[j] != '"' {
                j += if chars[j] == '\\' { 2 } else { 1 };
            }
            (j + 1).min(chars.len())
        } else if rest[0] == '\'' && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')) {
            // A character; anything else after a quote is a lifetime.
            let first = if rest.get(1) == Some(&'\\') { i + 3 } else { i + 2 };
            (first..chars.len())
                .find(|&j| chars[j] == '\'')
                .map_or(chars.len(), |j| j + 1)
        } else {
            out.push(rest[0]);
            i += 1;
            continue;
        };
        for &c in &chars[i..end] {
            blank(&mut out, c);
        }
        i = end;
    }
    out
}

/// The number of `#` when `rest` opens a raw string.
fn raw_string(rest: &[char]) -> Option<usize> {
    let after = rest.strip_prefix(&['r'])?;
    let hashes = after.iter().take_while(|&&c| c == '#').count();
    (after.get(hashes) == Some(&'"')).then_some(hashes)
}

/// Blanks the modules that exist only under test: they may look anywhere.
fn without_test_modules(code: &str) -> String {
    let mut out = code.to_string();
    while let Some(at) = out.find("#[cfg(test)]") {
        let Some(open) = out[at..].find(['{', ';']).map(|k| at + k) else {
            break;
        };
        let mut end = open + 1;
        if out.as_bytes()[open] == b'{' {
            let mut depth = 1;
            while depth > 0 && end < out.len() {
                depth += match out.as_bytes()[end] {
                    b'{' => 1,
                    b'}' => -1,
                    _ => 0,
                };
                end += 1;
            }
        }
        let blanked: String = out[at..end]
            .chars()
            .map(|c| if c == '\n' { '\n' } else { ' ' })
            .collect();
        out.replace_range(at..end, &blanked);
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands as a whole word.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        !text[..at].chars().next_back().is_some_and(is_word)
            && !text[at + word.len()..].chars().next().is_some_and(is_word)
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The paths that a `::` leads to: one, or each of a `{..}` group, as lists of names.
fn paths_after(text: &str) -> Vec<Vec<String>> {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let mut depth = 0usize;
        let mut start = 0;
        let mut found = Vec::new();
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                '}' => {
                    found.extend(paths_after(&group[start..at]));
                    return found;
                }
                ',' if depth == 0 => {
                    found.extend(paths_after(&group[start..at]));
                    start = at + 1;
                }
                _ => {}
            }
        }
        return found;
    }
    let name: String = text.chars().take_while(|&c| is_word(c)).collect();
    if name.is_empty() {
        return Vec::new();
    }
    match text[name.len()..].trim_start().strip_prefix("::") {
        Some(rest) => {
            let below = paths_after(rest);
            if below.is_empty() {
                return vec![vec![name]];
            }
            below
                .into_iter()
                .map(|path| std::iter::once(name.clone()).chain(path).collect())
                .collect()
        }
        None => vec![vec![name]],
    }
}

/// The module path of a library file: `src/ops/softmax/mod.rs` is `["ops", "softmax"]`.
fn module_of(path: &Path) -> Vec<String> {
    let inside = path
        .strip_prefix(root().join("src"))
        .expect("a file of the library")
        .with_extension("");
    let mut parts: Vec<String> = inside.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|p| p == "mod" || p == "lib") {
        parts.pop();
    }
    parts
}

/// The room of a module path.
fn room_of(module: &[String]) -> String {
    let Some(first) = module.first() else {
        return "lib".into();
    };
    if first == "ops" || first == "solve" {
        for part in &module[1..] {
            match part.as_str() {
                "reference" | "cpu" => return "reference".into(),
                "cases" => return "cases".into(),
                _ => {}
            }
        }
    }
    first.clone()
}

/// What the front door re-exports: name to the module path that it comes from.
fn front_door() -> BTreeMap<String, Vec<String>> {
    let code = code_only(&read(&root().join("src/lib.rs")));
    let mut names = BTreeMap::new();
    for at in words(&code, "use") {
        for path in paths_after(&code[at + 3..]) {
            let path: Vec<String> = path.into_iter().filter(|p| p != "crate" && p != "self").collect();
            if let Some((last, above)) = path.split_last().filter(|(_, above)| !above.is_empty()) {
                names.insert(last.clone(), above.to_vec());
            }
        }
    }
    names
}

/// Every module that a library file names, as absolute paths with the line.
fn references(path: &Path, door: &BTreeMap<String, Vec<String>>) -> Vec<(usize, Vec<String>)> {
    let code = without_test_modules(&code_only(&read(path)));
    let here = module_of(path);
    let mut found = Vec::new();
    let mut add = |at: usize, target: Vec<String>| {
        let target = match target.first().and_then(|name| door.get(name)) {
            Some(origin) => origin.clone(),
            None => target,
        };
        found.push((line_of(&code, at), target));
    };
    for at in words(&code, "crate") {
        if let Some(rest) = code[at + 5..].strip_prefix("::") {
            for target in paths_after(rest) {
                add(at, target);
            }
        }
    }
    for at in words(&code, "super") {
        // A chain `super::super` is read from its first link.
        if code[..at].ends_with("super::") {
            continue;
        }
        let mut up = 1;
        let mut rest = &code[at + 5..];
        while let Some(next) = rest.strip_prefix("::super") {
            up += 1;
            rest = next;
        }
        let Some(rest) = rest.strip_prefix("::").filter(|_| up <= here.len()) else {
            continue;
        };
        for below in paths_after(rest) {
            add(at, here[..here.len() - up].iter().cloned().chain(below).collect());
        }
    }
    found
}

fn library_files() -> Vec<PathBuf> {
    let command_line = root().join("src/bin");
    files("src", "rs")
        .into_iter()
        .filter(|p| !p.starts_with(&command_line))
        .collect()
}

fn report(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n  {}", violations.join("\n  "));
}

#[test]
fn rooms_know_only_the_rooms_below() {
    let arrows: BTreeMap<&str, &str> = ARROWS.iter().copied().collect();
    let door = front_door();
    let mut violations = Vec::new();
    for path in library_files() {
        let room = room_of(&module_of(&path));
        if room == "lib" {
            continue;
        }
        let Some(allowed) = arrows.get(room.as_str()) else {
            violations.push(format!(
                "{}: the room `{room}` has no place in ARROWS (tests/suite/house.rs)",
                shown(&path)
            ));
            continue;
        };
        for (line, target) in references(&path, &door) {
            let other = room_of(&target);
            // Macros and re-exported crates of the front door are no rooms.
            if other != room && arrows.contains_key(other.as_str()) && !allowed.split(' ').any(|a| a == other) {
                violations.push(format!(
                    "{}:{line}: `{room}` names `{}`, which is in `{other}`",
                    shown(&path),
                    target.join("::")
                ));
            }
        }
    }
    report("a room may only know the rooms that ARROWS allows it", &violations);
}

#[test]
fn rooms_below_the_device_do_not_know_wgpu() {
    let mut violations = Vec::new();
    for path in library_files() {
        let room = room_of(&module_of(&path));
        if !WITHOUT_GPU.contains(&room.as_str()) {
            continue;
        }
        let code = without_test_modules(&code_only(&read(&path)));
        violations.extend(words(&code, "wgpu").map(|at| format!("{}:{}", shown(&path), line_of(&code, at))));
    }
    report("the CPU side works without wgpu and must not name it", &violations);
}

/// What submits, writes or waits. `Gpu::statistics` counts it in `gpu`, so nothing may happen past that room.
const OF_THE_DEVICE_ROOM: &[&str] = &[
    "queue",
    "poll",
    "map_async",
    "get_mapped_range",
    "on_submitted_work_done",
];

#[test]
fn only_the_device_room_submits_and_waits() {
    let mut violations = Vec::new();
    let mut counted = 0;
    for path in library_files() {
        let code = without_test_modules(&code_only(&read(&path)));
        let of_device = room_of(&module_of(&path)) == "gpu";
        for word in OF_THE_DEVICE_ROOM {
            let found = words(&code, word).map(|at| format!("{}:{}: {word}", shown(&path), line_of(&code, at)));
            if of_device {
                counted += found.count();
            } else {
                violations.extend(found);
            }
        }
        // One place for each in the room itself, and those count.
        for (call, home, count) in [
            (".poll(", "src/gpu/wait.rs", 1),
            (".map_async(", "src/gpu/wait.rs", 2),
            (".submit([", "src/gpu/mod.rs", 1),
            (".write_buffer(", "src/gpu/mod.rs", 1),
        ] {
            let found = code.matches(call).count();
            let expected = if shown(&path) == home { count } else { 0 };
            if found != expected {
                violations.push(format!("{}: {found} of `{call}`, not {expected}", shown(&path)));
            }
        }
    }
    assert!(counted > 5, "the words are not found where they are");
    report(
        "submissions, writes and waits go through src/gpu, which counts them",
        &violations,
    );
}

#[test]
fn the_command_line_uses_the_public_api_only() {
    let mut violations = Vec::new();
    for path in files("src/bin", "rs") {
        let source = read(&path);
        let code = code_only(&source);
        // The attribute `path` and `include!` are the only ways past the public interface.
        for at in code
            .match_indices("#[path")
            .map(|(at, _)| at)
            .chain(words(&code, "include"))
        {
            violations.push(format!(
                "{}:{}: reaches into another file",
                shown(&path),
                line_of(&code, at)
            ));
        }
    }
    report(
        "the command line is a shell over the library's public interface",
        &violations,
    );
}

#[test]
fn every_shader_is_named_by_a_module() {
    let sources: Vec<String> = library_files().iter().map(|p| read(p)).collect();
    let modules: Vec<Vec<String>> = library_files().iter().map(|p| module_of(p)).collect();
    let mut violations = Vec::new();
    for path in files("shaders", "wgsl") {
        let file = path
            .strip_prefix(root().join("shaders"))
            .expect("a shader")
            .display()
            .to_string()
            .replace('\\', "/");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let loaded = sources
            .iter()
            .any(|s| s.contains(&format!("/{file}\"")) || s.contains(&format!("\"{name}\"")));
        if !loaded {
            violations.push(format!("shaders/{file}: no module under src/ loads it"));
        }
        // A family's stem is its module's name, with `_variant` after it where a family has several
        // files; the fragments under lib/ belong to no module.
        let stem = path.file_stem().expect("a stem").to_string_lossy();
        let ends = stem.match_indices('_').map(|(at, _)| at);
        let mut names = ends.chain([stem.len()]).map(|end| stem[..end].to_string());
        if file == name && !names.any(|n| modules.iter().any(|m| m.contains(&n))) {
            violations.push(format!("shaders/{file}: no module under src/ has its name"));
        }
    }
    report("every shader belongs to a module", &violations);
}

#[test]
fn every_operation_is_complete() {
    let mut folders = BTreeSet::new();
    for path in files("src/ops", "rs") {
        let parent = path.parent().expect("a folder").to_path_buf();
        if parent != root().join("src/ops") {
            folders.insert(parent);
        }
    }
    let mut violations = Vec::new();
    for folder in folders.iter().filter(|f| f.parent() == Some(&root().join("src/ops"))) {
        for needed in ["mod", "reference", "cases"] {
            let in_file = folder.join(format!("{needed}.rs")).is_file();
            if !in_file && !folder.join(needed).join("mod.rs").is_file() {
                violations.push(format!("{}: {needed}.rs is missing", shown(folder)));
            }
        }
    }
    report("an operation has its host side, its oracle and its cases", &violations);
}

#[test]
fn every_unsafe_is_argued() {
    let mut violations = Vec::new();
    for folder in ["src", "tests", "benches", "examples"] {
        for path in files(folder, "rs") {
            let source = read(&path);
            let code = code_only(&source);
            let lines: Vec<&str> = source.lines().collect();
            for at in words(&code, "unsafe") {
                let line = line_of(&code, at);
                if !lines[line.saturating_sub(6)..line].iter().any(|l| l.contains("SAFETY")) {
                    violations.push(format!("{}:{line}", shown(&path)));
                }
            }
        }
    }
    report("`unsafe` needs a SAFETY comment in the five lines above", &violations);
}

#[test]
fn kernels_use_their_own_elementary_functions() {
    let mut violations = Vec::new();
    for path in files("shaders", "wgsl") {
        // The probe measures the builtins: it is the one place that calls them.
        if path
            .file_stem()
            .is_some_and(|s| s.to_string_lossy().starts_with("probe"))
        {
            continue;
        }
        let code = code_only(&read(&path));
        for builtin in FORBIDDEN_BUILTINS {
            for at in words(&code, builtin).filter(|at| code[at + builtin.len()..].trim_start().starts_with('(')) {
                violations.push(format!("{}:{}: {builtin}(", shown(&path), line_of(&code, at)));
            }
        }
    }
    report(
        "builtin elementary functions are not accurate; shaders/lib/elementary.wgsl has ours",
        &violations,
    );
}

#[test]
fn the_readers_of_this_file_read_right() {
    let code = code_only("a /* b /* c */ d */ \"e\\\"f\" 'g' 'h r#\"i\"j\"# k // l\nm '\\'' n br\"o\"");
    let left: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(left, ["a", "'h", "k", "m", "n", "b"]);
    assert_eq!(line_of(&code, code.find('m').expect("m")), 2);

    let kept = without_test_modules("fn a() {}\n#[cfg(test)]\nmod t { fn b() { c } }\nfn d() {}");
    assert!(kept.contains("fn a") && kept.contains("fn d") && !kept.contains("fn b"));

    let paths = paths_after("error::{Error, Result}, x");
    assert_eq!(paths, [["error", "Error"], ["error", "Result"]]);
    let paths = paths_after("{gpu::{Gpu, view::View}, rows::*}");
    assert_eq!(
        paths.iter().map(|p| p.join("::")).collect::<Vec<_>>(),
        ["gpu::Gpu", "gpu::view::View", "rows"]
    );

    let name = |s: &str| room_of(&s.split("::").map(String::from).collect::<Vec<_>>());
    assert_eq!(name("ops::softmax::cpu"), "reference");
    assert_eq!(name("ops::softmax::cases"), "cases");
    assert_eq!(name("ops::softmax"), "ops");
    assert_eq!(name("gpu::view"), "gpu");
}

/// Every way to fail stands in the guide's table of errors, and nothing else does.
#[test]
fn the_guide_has_every_error() {
    let guide = include_str!("../../docs/embedding.md");
    let table = guide
        .split("| variant |")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next());
    let named: BTreeSet<&str> = table
        .expect("the table of errors")
        .lines()
        .skip(2)
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    let source = include_str!("../../src/error.rs");
    let variants = source
        .split("pub enum Error {")
        .nth(1)
        .and_then(|rest| rest.split("\n}").next());
    let variants: BTreeSet<&str> = variants
        .expect("the enum of errors")
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(char::is_uppercase))
        .filter_map(|line| line.split([' ', '(', ',']).next())
        .collect();
    assert!(variants.len() > 15, "{variants:?}");
    assert_eq!(named, variants);
}
