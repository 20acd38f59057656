//! Words of a command line, as a shell reads them.

use std::borrow::Cow;

/// A word as it is written, so that a POSIX shell reads it as just that.
pub(crate) fn quote(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,+=@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''")).into()
}

/// The words of a line that was written with [`quote`]; `None` if it ends within a quoted one.
pub(crate) fn words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::*;

    #[test]
    fn words_are_read_as_they_were_meant() {
        for word in ["my.toml", "", "with space.toml", "it's", "$(rm x)", "a;b", "ü", "'", r"back\slash", "~"]
        {
            let line = format!("dhtfs-sim run {} --seed 1", quote(word));
            assert_eq!(words(&line).unwrap(), ["dhtfs-sim", "run", word, "--seed", "1"], "{line}");
        }
        assert_eq!(quote("out/my-run_1.toml"), "out/my-run_1.toml");
        assert_eq!(quote("my run.toml"), "'my run.toml'");
        assert_eq!(words("a 'b"), None);
    }
}
