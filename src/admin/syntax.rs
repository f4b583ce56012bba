//! An error in the text of a statement: where, what, and what was meant.
//!
//! Must never repeat the text of a literal: it may be a connection URL.

/// SQLSTATE of a text that does not parse.
pub(crate) const SYNTAX_ERROR: &str = "42601";

/// A statement that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// Five characters.
    pub sqlstate: &'static str,
    /// One line, lower case, no period.
    pub message: String,
    /// What would have been right.
    pub detail: Option<String>,
    /// What was probably meant.
    pub hint: Option<String>,
    /// Byte offset into the query text.
    pub at: usize,
}

impl SyntaxError {
    /// A syntax error at a byte offset.
    pub(crate) fn at(at: usize, message: impl Into<String>) -> Self {
        Self { sqlstate: SYNTAX_ERROR, message: message.into(), detail: None, hint: None, at }
    }

    /// With another SQLSTATE than that of a syntax error.
    pub(crate) fn with_sqlstate(mut self, sqlstate: &'static str) -> Self {
        self.sqlstate = sqlstate;
        self
    }

    /// With what would have been right, a sentence.
    pub(crate) fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With what to do, a sentence.
    pub(crate) fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// The position Postgres clients count: characters, from 1, in the whole query text.
    pub(crate) fn position(&self, query: &str) -> u32 {
        let before = query.char_indices().take_while(|(at, _)| *at < self.at).count();
        u32::try_from(before + 1).unwrap_or(u32::MAX)
    }
}

/// No command, option or name is longer; beyond it the comparison only costs.
const SUGGESTION_BYTES_MAX: usize = 64;

/// `Did you mean "PREFLIGHT"?`, if one of the known words is near.
pub(crate) fn did_you_mean<'a>(
    typed: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    if typed.len() > SUGGESTION_BYTES_MAX {
        return None;
    }
    let typed = typed.to_lowercase();
    known
        .into_iter()
        .map(|word| (edit_distance(&typed, &word.to_lowercase()), word))
        // Two edits in a word of three letters make any other word of three.
        .filter(|(distance, word)| *distance <= 2 && distance * 2 < word.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| format!("Did you mean \"{word}\"?"))
}

/// Insertions, deletions, replacements, and swaps of neighbours.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_characters_not_bytes() {
        let query = "\u{e9}\u{e9} x";
        assert_eq!(SyntaxError::at(5, "").position(query), 4);
        assert_eq!(SyntaxError::at(99, "").position(query), 5);
    }

    #[test]
    fn suggests_only_near_words() {
        let known = ["CREATE", "DELETE", "LIST"];
        assert_eq!(did_you_mean("craete", known).unwrap(), "Did you mean \"CREATE\"?");
        assert_eq!(did_you_mean("lst", known).unwrap(), "Did you mean \"LIST\"?");
        assert_eq!(did_you_mean("x", known), None);
        assert_eq!(did_you_mean("remove", known), None);
    }
}
