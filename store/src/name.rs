//! Names in manifests: one path component each, checked before anything is made of it.
//!
//! A manifest comes from a stranger and its names become files. What is refused here can leave the target
//! directory, mean a device, or show as something else than it is; a tree with one such name is refused whole.

use std::fmt;

/// Longest name in bytes of UTF-8; what Linux file systems take.
pub const MAX_NAME_LEN: usize = 255;

/// Deepest path below a root, in components.
pub const MAX_PATH_DEPTH: usize = 64;

/// Names that Windows keeps for devices, with any extension and in any case. `com` and `lpt` take a digit.
const DEVICES: [&str; 5] = ["con", "prn", "aux", "nul", "clock$"];
const NUMBERED_DEVICES: [&str; 2] = ["com", "lpt"];

/// Why a name is refused. The name is shown escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name \"{shown}\" {problem}")]
pub struct NameError {
    shown: String,
    problem: NameProblem,
}

impl NameError {
    /// What is wrong.
    pub fn problem(&self) -> NameProblem {
        self.problem
    }
}

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameProblem {
    /// No characters.
    Empty,
    /// `.` or `..`.
    Dots,
    /// More than [`MAX_NAME_LEN`] bytes.
    TooLong,
    /// `/`, `\` or `:`.
    Separator,
    /// A control character.
    Control,
    /// A character that changes the direction of text.
    Bidi,
    /// A dot or space at its end.
    End,
    /// A Windows device.
    Device,
}

impl fmt::Display for NameProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameProblem::Empty => "is empty",
            NameProblem::Dots => "means a directory",
            NameProblem::TooLong => "is longer than 255 bytes",
            NameProblem::Separator => "has a / or \\ or : in it",
            NameProblem::Control => "has a control character in it",
            NameProblem::Bidi => "has a character that turns text around in it",
            NameProblem::End => "ends with a dot or space",
            NameProblem::Device => "is a device on Windows",
        })
    }
}

/// Checks one path component.
///
/// # Errors
/// [`NameError`] with the first problem found.
pub fn check_name(name: &str) -> Result<(), NameError> {
    match problem(name) {
        None => Ok(()),
        Some(problem) => {
            let shown = name.chars().take(MAX_NAME_LEN).flat_map(char::escape_default).collect();
            Err(NameError { shown, problem })
        }
    }
}

fn problem(name: &str) -> Option<NameProblem> {
    if name.is_empty() {
        return Some(NameProblem::Empty);
    }
    if name == "." || name == ".." {
        return Some(NameProblem::Dots);
    }
    if name.len() > MAX_NAME_LEN {
        return Some(NameProblem::TooLong);
    }
    for character in name.chars() {
        match character {
            '/' | '\\' | ':' => return Some(NameProblem::Separator),
            // Rust's notion of control is C0, DEL and C1.
            _ if character.is_control() => return Some(NameProblem::Control),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' => {
                return Some(NameProblem::Bidi);
            }
            _ => {}
        }
    }
    if name.ends_with(['.', ' ']) {
        return Some(NameProblem::End);
    }
    is_device(name).then_some(NameProblem::Device)
}

fn is_device(name: &str) -> bool {
    // Windows ignores the extension, and spaces before it.
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_lowercase();
    if DEVICES.contains(&stem.as_str()) {
        return true;
    }
    NUMBERED_DEVICES.iter().any(|device| {
        stem.strip_prefix(device).is_some_and(|rest| {
            let mut digits = rest.chars();
            // The superscripts one to three count as digits there.
            let is_digit = |c: char| c.is_ascii_digit() || matches!(c, '\u{b9}' | '\u{b2}' | '\u{b3}');
            digits.next().is_some_and(is_digit) && digits.next().is_none()
        })
    })
}

/// A path below a root: checked components, none for the root itself. Ordered as text.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(
    // The components with `/` between them, which none of them contains: a tree has up to a million of these.
    String,
);

/// Why a path cannot be made longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The component is refused.
    #[error(transparent)]
    Name(#[from] NameError),
    /// More than [`MAX_PATH_DEPTH`] components.
    #[error("the path is more than {MAX_PATH_DEPTH} levels deep")]
    TooDeep,
}

impl RelPath {
    /// The root itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// This path with one more component.
    ///
    /// # Errors
    /// [`PathError`] if the component is refused or the path gets too deep.
    pub fn join(&self, name: &str) -> Result<Self, PathError> {
        check_name(name)?;
        if self.depth() >= MAX_PATH_DEPTH {
            return Err(PathError::TooDeep);
        }
        let separator = if self.is_root() { "" } else { "/" };
        Ok(Self([&self.0, separator, name].concat()))
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|component| !component.is_empty())
    }

    /// How many components there are.
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last component; none for the root.
    pub fn name(&self) -> Option<&str> {
        self.components().next_back()
    }

    /// The path without its last component; none for the root.
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/').unwrap_or_default();
        (!self.is_root()).then(|| Self(parent.to_owned()))
    }

    /// The path below `base`, as the file system writes it.
    pub fn below(&self, base: &std::path::Path) -> std::path::PathBuf {
        if self.is_root() { base.to_owned() } else { base.join(&self.0) }
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    fn problem_of(name: &str) -> NameProblem {
        check_name(name).unwrap_err().problem()
    }

    #[test]
    fn odd_but_harmless_names_are_taken() {
        let names = [
            "a",
            "-rf",
            "--",
            ".hidden",
            "...a",
            " leading",
            "a b",
            "Grüße",
            "文件.txt",
            "😀",
            "a*b?",
            "<>|\"",
            "com",
            "com10",
            "console",
            "lpt",
            "nullable",
            "a.b.c",
        ];
        for name in names.into_iter().chain([&*"x".repeat(255)]) {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn every_kind_of_bad_name_is_refused_for_what_it_is() {
        assert_eq!(problem_of(""), NameProblem::Empty);
        assert_eq!(problem_of("."), NameProblem::Dots);
        assert_eq!(problem_of(".."), NameProblem::Dots);
        assert_eq!(problem_of(&"x".repeat(256)), NameProblem::TooLong);
        assert_eq!(problem_of(&"ü".repeat(128)), NameProblem::TooLong);
        for name in ["a/b", "/", "a\\b", "c:", "\\\\host\\share", "x:stream"] {
            assert_eq!(problem_of(name), NameProblem::Separator, "{name:?}");
        }
        for name in ["a\0", "\n", "\x1b[31m", "\x7f", "\u{85}", "\u{9f}"] {
            assert_eq!(problem_of(name), NameProblem::Control, "{name:?}");
        }
        for name in ["\u{202e}fdp.exe", "\u{2066}x", "\u{2069}", "\u{200e}", "\u{200f}", "\u{61c}"] {
            assert_eq!(problem_of(name), NameProblem::Bidi, "{name:?}");
        }
        for name in ["a.", "a ", "a. ", "..."] {
            assert_eq!(problem_of(name), NameProblem::End, "{name:?}");
        }
        for name in [
            "con",
            "CON",
            "Prn.txt",
            "aux.tar.gz",
            "nul",
            "clock$",
            "com0",
            "COM9.x",
            "lpt5",
            "com\u{b9}",
            "con .txt",
        ] {
            assert_eq!(problem_of(name), NameProblem::Device, "{name:?}");
        }
    }

    #[test]
    fn a_refused_name_is_shown_escaped() {
        let shown = check_name("a\n\u{202e}b/").unwrap_err().to_string();
        assert!(shown.is_ascii() && !shown.contains('\n'), "{shown}");
    }

    #[test]
    fn a_path_ends_at_the_deepest_level() {
        let mut path = RelPath::root();
        for _ in 0..MAX_PATH_DEPTH {
            path = path.join("d").unwrap();
        }
        assert_eq!(path.join("d"), Err(PathError::TooDeep));
        assert_eq!((path.depth(), path.name()), (MAX_PATH_DEPTH, Some("d")));
        assert_eq!(path.parent().unwrap().depth(), MAX_PATH_DEPTH - 1);
    }

    #[test]
    fn a_path_is_its_components() {
        let root = RelPath::root();
        assert_eq!((root.components().count(), root.name(), root.parent()), (0, None, None));
        assert_eq!(root.below(Path::new("/t")).as_os_str(), "/t");
        let path = root.join("a").unwrap().join("b c").unwrap();
        assert_eq!(path.components().collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!((path.to_string().as_str(), path.name(), path.depth()), ("a/b c", Some("b c"), 2));
        assert_eq!(path.below(Path::new("/t")), Path::new("/t/a/b c"));
        let parent = path.parent().unwrap();
        assert_eq!((parent.to_string().as_str(), parent.parent()), ("a", Some(root)));
    }

    proptest! {
        #[test]
        fn no_name_that_is_taken_leaves_its_directory(name in any::<String>()) {
            if let Ok(path) = RelPath::root().join(&name) {
                let joined = path.below(Path::new("/target"));
                prop_assert_eq!(joined.parent(), Some(Path::new("/target")));
                prop_assert!(joined.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))));
            }
        }

        #[test]
        fn no_mix_of_path_characters_leaves_its_directory(name in "[./\\\\:a ]{0,8}") {
            if let Ok(path) = RelPath::root().join(&name) {
                let joined = path.below(Path::new("/target"));
                prop_assert_eq!(joined.parent(), Some(Path::new("/target")));
            }
        }
    }
}
