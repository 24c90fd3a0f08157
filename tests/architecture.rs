//! The law of the layers: what may import what, which words stay at the edge, how long things get.
//!
//! Reads the sources as text, through a small lexer that knows comments and literals. What stands in
//! a `#[cfg(test)] mod` is left out. Every rule has a test below that feeds it a source that breaks it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each layer and what it may import besides itself, in the order of ARCHITECTURE.md. A new edge is
/// a word here and a reason in the commit.
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("config", &["base"]),
    ("wire", &["base"]),
    ("control", &["base", "wire"]),
    // Fingerprints, ICE credentials and SRTP profiles cross threads, so `control` defines them.
    ("transport", &["base", "wire", "control"]),
    ("media", &["base", "wire"]),
    // A room is configured with what `control` carries.
    ("room", &["base", "wire", "transport", "media", "control"]),
    ("shard", &["base", "wire", "transport", "room", "control"]),
    ("coordinator", &["base", "control"]),
    ("signaling", &["base", "wire", "control"]),
    (
        "io",
        &[
            "base",
            "config",
            "wire",
            "control",
            "transport",
            "media",
            "room",
            "shard",
            "coordinator",
            "signaling",
        ],
    ),
    (
        "server",
        &[
            "base",
            "config",
            "wire",
            "control",
            "transport",
            "shard",
            "coordinator",
            "signaling",
            "io",
        ],
    ),
    // What is between a client and a server, for those who play both.
    ("network", &[]),
    // A client's world, beside the server's: it knows nothing of what the server is made of.
    (
        "load",
        &["base", "wire", "control", "transport", "network", "io"],
    ),
    ("main", &["base", "config", "io", "server", "load"]),
];

/// The layers that may touch the world.
const EDGE: &[&str] = &["io", "server", "load", "main"];

/// Words (or paths) that only the edge may use: sockets, threads, locks, channels, clocks, environment.
const EDGE_ONLY: &[&[&str]] = &[
    &["TcpStream"],
    &["TcpListener"],
    &["UdpSocket"],
    &["mio"],
    &["socket2"],
    &["libc"],
    &["parking_lot"],
    &["crossbeam_channel"],
    &["crossbeam_queue"],
    &["crossbeam"],
    &["Mutex"],
    &["RwLock"],
    &["Condvar"],
    &["mpsc"],
    &["Instant", "::", "now"],
    &["SystemTime", "::", "now"],
    &[".", "elapsed", "("],
    &["std", "::", "thread"],
    &["std", "::", "env"],
    &["std", "::", "fs"],
    &["thread_rng"],
    &["rand", "::", "rng"],
];

const UNSAFE_ALLOWED_IN: &str = "io/udp.rs";
const FILE_CODE_LINES_MAX: usize = 700;
const FUNCTION_CODE_LINES_MAX: usize = 70;

// ---------------------------------------------------------------------------------------------
// The rules on the sources of this crate
// ---------------------------------------------------------------------------------------------

#[test]
fn layers_import_what_the_table_allows() {
    assert_clean(layer_violations(&sources()));
}

#[test]
fn no_super_outside_tests() {
    assert_clean(super_violations(&sources()));
}

#[test]
fn no_child_imports_its_folder() {
    assert_clean(folder_violations(&sources()));
}

#[test]
fn no_cycles_between_files_or_layers() {
    assert_clean(cycle_violations(&sources()));
}

#[test]
fn the_world_is_touched_at_the_edge_only() {
    assert_clean(edge_violations(&sources()));
}

#[test]
fn unsafe_stays_in_one_file() {
    assert_clean(unsafe_violations(&sources()));
}

#[test]
fn files_and_functions_are_short() {
    assert_clean(length_violations(&sources()));
}

fn assert_clean(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// Reads every `.rs` file below `src`.
fn sources() -> Crate {
    fn walk(dir: &Path, root: &Path, into: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                walk(&path, root, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).expect("below the root");
                let name = name.to_str().expect("names are ASCII").replace('\\', "/");
                into.push((name, fs::read_to_string(&path).expect("sources are UTF-8")));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &root, &mut files);
    assert!(files.len() > 10, "the sources were not found");
    Crate::parse(&files)
}

// ---------------------------------------------------------------------------------------------
// The checkers
// ---------------------------------------------------------------------------------------------

fn layer_violations(krate: &Crate) -> Vec<String> {
    let mut found = Vec::new();
    for (name, file) in &krate.files {
        if name == "lib.rs" {
            continue;
        }
        let own = layer_of(name);
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == own) else {
            found.push(format!("{name}: the layer `{own}` is not in the table"));
            continue;
        };
        for import in &file.imports {
            let Some(target) = import.path.first() else {
                continue;
            };
            let declared = LAYERS.iter().any(|(layer, _)| layer == target);
            if declared && target != own && !allowed.contains(&target.as_str()) {
                found.push(format!(
                    "{name}:{}: `{own}` must not import `{}`",
                    import.line,
                    import.path.join("::")
                ));
            }
        }
    }
    found
}

fn super_violations(krate: &Crate) -> Vec<String> {
    let mut found = Vec::new();
    for (name, file) in &krate.files {
        for pair in file.tokens.windows(2) {
            if pair[0].text == "super" && pair[1].text == "::" {
                found.push(format!("{name}:{}: `super::`", pair[0].line));
            }
        }
    }
    found
}

/// A file must import nothing from the `mod.rs` of its own folder or of one above, nor from the root.
fn folder_violations(krate: &Crate) -> Vec<String> {
    let mut found = Vec::new();
    for (name, file) in &krate.files {
        if name == "main.rs" {
            continue;
        }
        let own = module_path(name);
        for import in &file.imports {
            let depth = krate.module_depth(&import.path);
            if depth < own.len() && own[..depth] == import.path[..depth] {
                found.push(format!(
                    "{name}:{}: imports `{}` from a folder it is in",
                    import.line,
                    import.path.join("::")
                ));
            }
        }
    }
    found
}

fn cycle_violations(krate: &Crate) -> Vec<String> {
    let mut files: Graph = BTreeMap::new();
    let mut layers: Graph = BTreeMap::new();
    for (name, file) in &krate.files {
        if name == "lib.rs" {
            continue;
        }
        for import in &file.imports {
            let Some(target) = krate.file_of(&import.path) else {
                continue;
            };
            if target == *name || target == "lib.rs" {
                continue;
            }
            let (from, to) = (layer_of(name), layer_of(&target));
            if from != to {
                layers.entry(from.into()).or_default().insert(to.into());
            }
            files.entry(name.clone()).or_default().insert(target);
        }
    }
    [("files", files), ("layers", layers)]
        .into_iter()
        .filter_map(|(what, graph)| {
            find_cycle(&graph).map(|cycle| format!("a cycle of {what}: {}", cycle.join(" -> ")))
        })
        .collect()
}

fn edge_violations(krate: &Crate) -> Vec<String> {
    let mut found = Vec::new();
    for (name, file) in &krate.files {
        if name == "lib.rs" || EDGE.contains(&layer_of(name)) {
            continue;
        }
        for word in EDGE_ONLY {
            for window in file.tokens.windows(word.len()) {
                if window.iter().zip(*word).all(|(token, w)| token.text == *w) {
                    let line = window[0].line;
                    found.push(format!("{name}:{line}: `{}` below `io`", word.concat()));
                }
            }
        }
        // `use std::{fs, thread}` hides the path from the words above.
        for import in file.uses.iter().filter(|u| u.path.len() > 1) {
            let text = import.path[..2].join("::");
            if matches!(text.as_str(), "std::fs" | "std::env" | "std::thread") {
                found.push(format!("{name}:{}: `{text}` below `io`", import.line));
            }
        }
    }
    found
}

fn unsafe_violations(krate: &Crate) -> Vec<String> {
    let mut found = Vec::new();
    for (name, file) in &krate.files {
        for token in file.tokens.iter().chain(&file.test_tokens) {
            if token.text == "unsafe" && name != UNSAFE_ALLOWED_IN {
                found.push(format!("{name}:{}: `unsafe`", token.line));
            }
        }
    }
    found
}

fn length_violations(krate: &Crate) -> Vec<String> {
    let mut found = Vec::new();
    for (name, file) in &krate.files {
        let lines = file.code_lines.len();
        if lines > FILE_CODE_LINES_MAX {
            found.push(format!("{name}: {lines} lines of code"));
        }
        for (function, line, lines) in function_lengths(file) {
            if lines > FUNCTION_CODE_LINES_MAX {
                found.push(format!(
                    "{name}:{line}: `{function}` has {lines} lines of code"
                ));
            }
        }
    }
    found
}

/// Name, first line and lines of code of each function that has a body.
fn function_lengths(file: &File) -> Vec<(String, usize, usize)> {
    let tokens = &file.tokens;
    let mut found = Vec::new();
    for at in 0..tokens.len().saturating_sub(1) {
        if tokens[at].text != "fn" || !is_ident(&tokens[at + 1].text) {
            continue;
        }
        let mut depth = 0i32;
        let mut end = None;
        for token in &tokens[at..] {
            match token.text.as_str() {
                // `;` ends a declaration, unless inside `[T; N]`.
                ";" if depth == 0 => break,
                "(" | "[" | "{" => depth += 1,
                ")" | "]" => depth -= 1,
                "}" => {
                    depth -= 1;
                    if depth == 0 {
                        end = Some(token.line);
                        break;
                    }
                }
                _ => {}
            }
        }
        if let Some(end) = end {
            let first = tokens[at].line;
            let lines = file.code_lines.range(first..=end).count();
            found.push((tokens[at + 1].text.clone(), first, lines));
        }
    }
    found
}

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Some cycle of the graph, first node repeated at its end.
fn find_cycle(graph: &Graph) -> Option<Vec<String>> {
    fn visit(
        node: &str,
        graph: &Graph,
        trail: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = trail.iter().position(|n| n == node) {
            let mut cycle = trail[start..].to_vec();
            cycle.push(node.into());
            return Some(cycle);
        }
        if done.contains(node) {
            return None;
        }
        trail.push(node.into());
        for next in graph.get(node).into_iter().flatten() {
            if let Some(cycle) = visit(next, graph, trail, done) {
                return Some(cycle);
            }
        }
        trail.pop();
        done.insert(node.into());
        None
    }
    let mut done = BTreeSet::new();
    graph
        .keys()
        .find_map(|node| visit(node, graph, &mut Vec::new(), &mut done))
}

// ---------------------------------------------------------------------------------------------
// Sources as the checkers see them
// ---------------------------------------------------------------------------------------------

/// Files by their path below `src`.
struct Crate {
    files: BTreeMap<String, File>,
}

struct File {
    /// Without test modules.
    tokens: Vec<Token>,
    test_tokens: Vec<Token>,
    /// Numbers of the lines that hold a token outside test modules.
    code_lines: BTreeSet<usize>,
    /// What is imported from this crate, from its root.
    imports: Vec<Import>,
    /// Every `use` as it stands, each name on its own.
    uses: Vec<Import>,
}

struct Import {
    path: Vec<String>,
    line: usize,
}

struct Token {
    text: String,
    line: usize,
}

impl Crate {
    fn parse(files: &[(String, String)]) -> Self {
        let mut parsed: BTreeMap<String, File> = BTreeMap::new();
        let mut test_files = BTreeSet::new();
        for (name, source) in files {
            let (file, test_modules) = File::parse(name, source);
            for module in test_modules {
                let mut path = module_path(name);
                path.push(module);
                test_files.insert(format!("{}.rs", path.join("/")));
                test_files.insert(format!("{}/mod.rs", path.join("/")));
            }
            parsed.insert(name.clone(), file);
        }
        parsed.retain(|name, _| !test_files.contains(name));
        Self { files: parsed }
    }

    /// How many of the path's first segments name modules that are files.
    fn module_depth(&self, path: &[String]) -> usize {
        (1..=path.len())
            .rev()
            .find(|depth| self.file_at(&path[..*depth]).is_some())
            .unwrap_or(0)
    }

    fn file_of(&self, path: &[String]) -> Option<String> {
        self.file_at(&path[..self.module_depth(path)])
    }

    fn file_at(&self, module: &[String]) -> Option<String> {
        let stem = module.join("/");
        [format!("{stem}.rs"), format!("{stem}/mod.rs")]
            .into_iter()
            .find(|name| self.files.contains_key(name))
    }
}

impl File {
    /// The file, and the names of the modules it declares for tests in files of their own.
    fn parse(name: &str, source: &str) -> (Self, Vec<String>) {
        let mut rest = lex(source);
        let (mut kept, mut test_tokens, mut test_modules) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(start) = find_test_module(&rest) {
            let end = item_end(&rest, start);
            if rest[end].text == ";" {
                test_modules.push(rest[end - 1].text.clone());
            }
            let behind = rest.split_off(end + 1);
            test_tokens.extend(rest.drain(start..));
            kept.append(&mut rest);
            rest = behind;
        }
        kept.append(&mut rest);
        let code_lines = kept.iter().map(|t| t.line).collect();
        let (imports, uses) = imports(name, &kept);
        let file = Self {
            tokens: kept,
            test_tokens,
            code_lines,
            imports,
            uses,
        };
        (file, test_modules)
    }
}

/// Where `#[cfg(test)] mod` begins, which may be `pub(crate)` so that other tests can use its helpers.
fn find_test_module(tokens: &[Token]) -> Option<usize> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    const VISIBILITY: [&str; 4] = ["pub", "(", "crate", ")"];
    let reads = |tokens: &[Token], texts: &[&str]| {
        tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(t, m)| t.text == *m)
    };
    (0..tokens.len()).find(|at| {
        let Some(item) = tokens.get(at + MARK.len()..) else {
            return false;
        };
        let hidden = if reads(item, &VISIBILITY) {
            &item[VISIBILITY.len()..]
        } else {
            item
        };
        reads(&tokens[*at..], &MARK) && reads(hidden, &["mod"])
    })
}

/// The token that ends the item that begins at `start`: its `;` or its closing brace.
fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            ";" if depth == 0 => return at,
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    tokens.len() - 1
}

/// The first folder or file name below `src`.
fn layer_of(name: &str) -> &str {
    let first = name.split('/').next().unwrap_or(name);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// `wire/rtp.rs` is `[wire, rtp]`; `wire/mod.rs` is `[wire]`; the roots are `[]`.
fn module_path(name: &str) -> Vec<String> {
    let mut path: Vec<String> = name.split('/').map(str::to_owned).collect();
    let last = path.pop().expect("a name has a last part");
    match last.as_str() {
        "mod.rs" => {}
        "lib.rs" | "main.rs" if path.is_empty() => {}
        file => path.push(file.trim_end_matches(".rs").to_owned()),
    }
    path
}

/// What the file takes from this crate (by `use` or by a path in place), and all its `use`s.
fn imports(name: &str, tokens: &[Token]) -> (Vec<Import>, Vec<Import>) {
    let own = module_path(name);
    let children: BTreeSet<&str> = tokens
        .windows(3)
        .filter(|w| w[0].text == "mod" && w[2].text == ";")
        .map(|w| w[1].text.as_str())
        .collect();
    let (mut found, mut uses) = (Vec::new(), Vec::new());
    for at in 0..tokens.len() {
        let line = tokens[at].line;
        let before = at.checked_sub(1).map_or("", |b| tokens[b].text.as_str());
        let next = tokens.get(at + 1).map_or("", |t| t.text.as_str());
        let text = tokens[at].text.as_str();
        if text == "use" {
            let mut paths = Vec::new();
            use_tree(tokens, &mut (at + 1), &mut Vec::new(), &mut paths);
            for path in paths {
                if children.contains(path[0].as_str()) {
                    let path = [own.clone(), path.clone()].concat();
                    found.push(Import { path, line });
                }
                uses.push(Import { path, line });
            }
        }
        // `pub(in crate::x)` is a visibility.
        if next != "::" || matches!(before, "::" | "in") {
            continue;
        }
        let prefix = match text {
            "crate" | "shardcast" => Vec::new(),
            "self" => own.clone(),
            _ => continue,
        };
        let mut paths = Vec::new();
        use_tree(tokens, &mut (at + 2), &mut prefix.clone(), &mut paths);
        found.extend(paths.into_iter().map(|path| Import { path, line }));
    }
    (found, uses)
}

/// Reads `a::{b, c::d as e}` from `at` on and appends each name's whole path.
fn use_tree(
    tokens: &[Token],
    at: &mut usize,
    prefix: &mut Vec<String>,
    paths: &mut Vec<Vec<String>>,
) {
    let depth = prefix.len();
    let text = |at: usize| tokens.get(at).map_or("", |t| t.text.as_str());
    loop {
        match text(*at) {
            "{" => {
                *at += 1;
                while text(*at) != "}" && *at < tokens.len() {
                    use_tree(tokens, at, prefix, paths);
                    // An alias, a comma, or what a macro puts there.
                    while !matches!(text(*at), "," | "}" | "") {
                        *at += 1;
                    }
                    if text(*at) == "," {
                        *at += 1;
                    }
                }
                *at += 1;
                break;
            }
            word if is_ident(word) => {
                prefix.push(word.to_owned());
                *at += 1;
                if text(*at) == "::" {
                    *at += 1;
                    continue;
                }
                paths.push(prefix.clone());
                break;
            }
            _ => {
                // `*`, or the `<` of a turbofish.
                if !prefix.is_empty() {
                    paths.push(prefix.clone());
                }
                *at += 1;
                break;
            }
        }
    }
    prefix.truncate(depth);
}

fn is_ident(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Cuts a source into words, `::`, and single marks; literals become `""`, comments vanish.
fn lex(source: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        chars: source.chars().collect(),
        at: 0,
        line: 1,
        tokens: Vec::new(),
    };
    while lexer.at < lexer.chars.len() {
        lexer.step();
    }
    lexer.tokens
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn bump(&mut self) -> char {
        let c = self.peek(0);
        self.at += 1;
        self.line += usize::from(c == '\n');
        c
    }

    fn push(&mut self, text: &str) {
        let line = self.line;
        let text = text.to_owned();
        self.tokens.push(Token { text, line });
    }

    fn step(&mut self) {
        match (self.peek(0), self.peek(1)) {
            ('/', '/') => {
                while self.at < self.chars.len() && self.peek(0) != '\n' {
                    self.bump();
                }
            }
            ('/', '*') => self.block_comment(),
            ('"', _) => self.string(),
            ('\'', _) => self.char_or_lifetime(),
            (':', ':') => {
                self.at += 2;
                self.push("::");
            }
            (c, _) if c.is_alphanumeric() || c == '_' => self.word(),
            (c, _) => {
                if !c.is_whitespace() {
                    self.push(&c.to_string());
                }
                self.bump();
            }
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        loop {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                _ => {
                    self.bump();
                    if self.at >= self.chars.len() {
                        return;
                    }
                    continue;
                }
            }
            self.at += 2;
            if depth == 0 {
                return;
            }
        }
    }

    /// A string that knows escapes; each of its lines counts as code.
    fn string(&mut self) {
        self.push("\"\"");
        self.bump();
        while self.at < self.chars.len() {
            match self.bump() {
                '\\' => {
                    self.bump();
                }
                '"' => return,
                '\n' => self.push("\"\""),
                _ => {}
            }
        }
    }

    fn raw_string(&mut self) {
        let mut hashes = 0;
        while self.peek(0) == '#' {
            hashes += 1;
            self.bump();
        }
        self.push("\"\"");
        self.bump();
        while self.at < self.chars.len() {
            match self.bump() {
                '"' if (0..hashes).all(|ahead| self.peek(ahead) == '#') => {
                    self.at += hashes;
                    return;
                }
                '\n' => self.push("\"\""),
                _ => {}
            }
        }
    }

    fn char_or_lifetime(&mut self) {
        self.bump();
        if self.peek(0) != '\\' && self.peek(1) != '\'' {
            return; // a lifetime: its name follows as a word
        }
        self.push("\"\"");
        if self.bump() == '\\' {
            self.bump();
        }
        while self.at < self.chars.len() && self.bump() != '\'' {}
    }

    fn word(&mut self) {
        let mut word = String::new();
        while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
            word.push(self.bump());
        }
        let raw = matches!(word.as_str(), "r" | "br" | "cr");
        match self.peek(0) {
            '"' if raw => self.raw_string(),
            '#' if raw && matches!(self.peek(1), '#' | '"') => self.raw_string(),
            '#' if word == "r" && is_ident(&self.peek(1).to_string()) => {
                self.bump(); // a raw identifier: the word itself follows
            }
            '"' if matches!(word.as_str(), "b" | "c") => self.string(),
            '\'' if word == "b" => self.char_or_lifetime(),
            _ => self.push(&word),
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Each rule against sources that break it
// ---------------------------------------------------------------------------------------------

/// Files as `path: source` on a stage of their own.
fn stage(files: &[(&str, &str)]) -> Crate {
    let files: Vec<(String, String)> = files
        .iter()
        .map(|(name, source)| ((*name).to_owned(), (*source).to_owned()))
        .collect();
    Crate::parse(&files)
}

/// Runs `check` on one file (beside some modules it may name) and returns what it found.
fn found(check: fn(&Crate) -> Vec<String>, name: &str, source: &str) -> Vec<String> {
    let others = [
        "base/ids.rs",
        "io/udp.rs",
        "room/mod.rs",
        "room/peer.rs",
        "wire/rtp.rs",
        "server.rs",
    ];
    let mut files: Vec<(&str, &str)> = others
        .into_iter()
        .filter(|other| *other != name)
        .map(|other| (other, ""))
        .collect();
    files.push((name, source));
    check(&stage(&files))
}

#[test]
fn the_checkers_find_forbidden_imports() {
    let cases = [
        ("base/ids.rs", "use crate::wire::rtp::Header;"),
        ("wire/rtp.rs", "fn f() { crate::room::peer::go::<u8>() }"),
        ("wire/rtp.rs", "use crate::{base::ids, io::{udp as u}};"),
        ("signaling/session.rs", "pub use crate::room::Room;"),
        ("signaling/session.rs", "use crate::shard::Shard;"),
        ("coordinator.rs", "use crate::signaling::Session;"),
        ("unheard_of.rs", ""),
    ];
    for (name, source) in cases {
        let found = found(layer_violations, name, source);
        assert_eq!(found.len(), 1, "{name}: {source}: {found:?}");
    }
    let clean = [
        (
            "wire/rtp.rs",
            "// use crate::io::udp;\nuse crate::base::ids::Ssrc;",
        ),
        ("wire/rtp.rs", "const S: &str = \"crate::io::udp\";"),
        (
            "wire/rtp.rs",
            "#[cfg(test)]\nmod tests { use crate::io::udp; }",
        ),
        ("main.rs", "use shardcast::server::Server;"),
    ];
    for (name, source) in clean {
        let found = found(layer_violations, name, source);
        assert!(found.is_empty(), "{name}: {source}: {found:?}");
    }
}

#[test]
fn the_checkers_find_super_and_folder_imports() {
    let go = |name, source| {
        let mut all = found(super_violations, name, source);
        all.extend(found(folder_violations, name, source));
        all.len()
    };
    assert_eq!(go("room/peer.rs", "use super::Room;"), 1);
    assert_eq!(go("room/peer.rs", "use crate::room::Room;"), 1);
    assert_eq!(go("room/peer.rs", "use crate::room::*;"), 1);
    assert_eq!(go("room/peer.rs", "use crate::SomethingAtTheRoot;"), 1);
    assert_eq!(go("room/track.rs", "use crate::room::peer::Peer;"), 0);
    assert_eq!(go("room/mod.rs", "use crate::room::peer::Peer;"), 0);
    assert_eq!(go("shard/mod.rs", "use crate::room::Room;"), 0);
    assert_eq!(go("room/peer.rs", "pub(super) fn f() {}"), 0);
    assert_eq!(go("room/peer.rs", "pub(in crate::room) fn f() {}"), 0);
    let source = "#[cfg(test)]\nmod tests { use super::*; }";
    assert_eq!(go("room/peer.rs", source), 0);
    let source = "#[cfg(test)]\npub(crate) mod tests { use super::*; }";
    assert_eq!(go("room/peer.rs", source), 0);
    let source = "#[cfg(test)]\nmod tests { use super::*; }\nfn f() { super::g() }";
    assert_eq!(go("room/peer.rs", source), 1);
}

#[test]
fn the_checkers_find_cycles() {
    let two = stage(&[
        ("room/a.rs", "use crate::room::b::B;"),
        ("room/b.rs", "use crate::room::c::{C, D};"),
        ("room/c.rs", "fn f() -> crate::room::a::A {}"),
    ]);
    let found = cycle_violations(&two);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("room/a.rs -> room/b.rs -> room/c.rs -> room/a.rs"));

    let layers = stage(&[
        ("room/a.rs", "use crate::shard::x::X;"),
        ("room/b.rs", ""),
        ("shard/x.rs", ""),
        ("shard/y.rs", "use crate::room::b::B;"),
    ]);
    let found = cycle_violations(&layers);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("layers: room -> shard -> room"),
        "{found:?}"
    );

    let by_child_name = stage(&[
        ("room/mod.rs", "mod peer;\nuse peer::Peer;"),
        ("room/peer.rs", "use crate::room::Room;"),
    ]);
    assert_eq!(cycle_violations(&by_child_name).len(), 1);
    let dag = stage(&[
        ("room/mod.rs", "mod peer;\nuse self::peer::Peer;"),
        ("room/peer.rs", "use crate::base::ids::PeerId;"),
        ("base/ids.rs", ""),
    ]);
    assert!(cycle_violations(&dag).is_empty());
}

#[test]
fn the_checkers_find_words_of_the_edge() {
    let cases = [
        "use std::net::TcpStream;",
        "use std::net::{IpAddr, UdpSocket};",
        "use mio::Poll;",
        "fn f() { std::thread::sleep(d) }",
        "use std::{fmt, thread};",
        "use std::{env::var, fmt};",
        "use std::sync::{Arc, Mutex};",
        "type L = parking_lot::RawMutex;",
        "fn f() { let now = Instant::now(); }",
        "fn f() { then.elapsed() }",
        "fn f() { std::fs::read(p) }",
        "fn f() { rand::rng() }",
    ];
    for source in cases {
        let below = found(edge_violations, "wire/rtp.rs", source);
        assert_eq!(below.len(), 1, "{source}: {below:?}");
        assert!(found(edge_violations, "io/udp.rs", source).is_empty());
        assert!(found(edge_violations, "server.rs", source).is_empty());
        let tested = format!("#[cfg(test)]\nmod tests {{ {source} }}");
        assert!(found(edge_violations, "wire/rtp.rs", &tested).is_empty());
    }
    let clean =
        "use std::net::SocketAddr; /* Mutex */ fn f(now: Instant) { \"Mutex\"; r#\"mio::\"#; }";
    assert!(found(edge_violations, "wire/rtp.rs", clean).is_empty());
}

#[test]
fn the_checkers_find_unsafe_and_length() {
    let source = "#![deny(unsafe_code)]\nfn f() { unsafe { g() } }";
    assert_eq!(found(unsafe_violations, "wire/rtp.rs", source).len(), 1);
    assert!(found(unsafe_violations, "io/udp.rs", source).is_empty());

    let body = |n| "    g('{', \"}\");\n".repeat(n);
    let long = format!("fn long() {{\n{}}}\nfn short() {{\n}}\n", body(69));
    let found_long = found(length_violations, "wire/rtp.rs", &long);
    assert_eq!(found_long, ["wire/rtp.rs:1: `long` has 71 lines of code"]);
    let fits = format!("fn fits<'a>(a: [u8; 2]) {{\n{}// no code\n\n}}\n", body(68));
    assert!(found(length_violations, "wire/rtp.rs", &fits).is_empty());

    let lines = "const A: u8 = 1;\n\n// a comment\n".repeat(701);
    assert_eq!(found(length_violations, "wire/rtp.rs", &lines).len(), 1);
    let in_tests = format!("#[cfg(test)]\nmod tests {{\n{lines}}}");
    assert!(found(length_violations, "wire/rtp.rs", &in_tests).is_empty());
}

#[test]
fn a_test_module_in_its_own_file_is_left_out() {
    let krate = stage(&[
        (
            "room/mod.rs",
            "#[cfg(test)]\nmod tests;\nfn f() { super::x() }",
        ),
        ("room/tests.rs", "use super::*; fn g() { unsafe {} }"),
    ]);
    assert_eq!(super_violations(&krate).len(), 1);
    assert!(unsafe_violations(&krate).is_empty());
}
