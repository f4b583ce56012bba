//! Takes passwords that were typed out of `ps`.
//!
//! The documents put a source's URL on the command line, where every user of the machine can read
//! it for as long as the command runs, and a first copy runs for hours. So a command whose words
//! hold a password starts itself again in the same process with the password masked, and hands the
//! words as typed through the environment, which only the same user can read.
//!
//! Must never: change a word that holds no password; keep a command from running because it could
//! not be hidden.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Holds the words as typed, as a JSON array.
const TYPED: &str = "ARDENT_TYPED_WORDS";
const MASK: &str = "***";

/// The words as typed, once no password among them is to be seen from outside.
pub fn concealed(words: Vec<String>) -> Vec<String> {
    if let Some(typed) = typed_for(&words) {
        return typed;
    }
    let masked: Vec<String> = words.iter().map(|word| masked(word)).collect();
    if masked != words
        && let Ok(typed) = serde_json::to_string(&words)
        && let Ok(program) = std::env::current_exe()
        && let [name, arguments @ ..] = &masked[..]
    {
        // Comes back only if it failed; then the command goes on as it was typed.
        let _failed = Command::new(program).arg0(name).args(arguments).env(TYPED, typed).exec();
    }
    words
}

/// What was handed over to a process that was started with these words; nothing else is believed.
fn typed_for(words: &[String]) -> Option<Vec<String>> {
    let typed: Vec<String> = serde_json::from_str(&std::env::var(TYPED).ok()?).ok()?;
    typed.iter().map(|word| masked(word)).eq(words.iter().cloned()).then_some(typed)
}

/// A word with what may be a password in it left out. Masks too much rather than too little.
fn masked(word: &str) -> String {
    let in_url = || {
        let authority = word.find("://")? + "://".len();
        let colon = authority + word[authority..].find(':')?;
        let at = colon + word[colon..].rfind('@')?;
        Some(format!("{}:{MASK}{}", &word[..colon], &word[at..]))
    };
    let word = in_url().unwrap_or_else(|| word.to_owned());
    // `?password=x` of a URL and `PASSWORD 'x'` of a statement.
    let lower = word.to_ascii_lowercase();
    let named = lower.match_indices("password").map(|(at, name)| at + name.len());
    let mut given = named.filter(|&end| lower[end..].starts_with(['=', ' ', '\'']));
    match given.next() {
        Some(end) => format!("{}{MASK}", &word[..=end]),
        None => word,
    }
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn passwords_are_masked_and_nothing_else() {
        let cases = [
            ("postgresql://app:hunter2@db:5432/shop", "postgresql://app:***@db:5432/shop"),
            ("--server=postgresql://a:p@ss:w@h/d", "--server=postgresql://a:***@h/d"),
            (
                "postgresql://db:5432/shop?password=hunter2",
                "postgresql://db:5432/shop?password=***",
            ),
            ("ARDENT ROLE CREATE ann PASSWORD 'hunter2'", "ARDENT ROLE CREATE ann PASSWORD ***"),
            ("postgresql://app@db:5432/shop", "postgresql://app@db:5432/shop"),
            ("--no-password", "--no-password"),
            ("ssh://hop@10.0.0.1:22", "ssh://hop@10.0.0.1:22"),
            ("ROTATE PASSWORD", "ROTATE PASSWORD"),
        ];
        for (typed, shown) in cases {
            assert_eq!(masked(typed), shown);
            assert_eq!(masked(shown), shown, "masked twice");
        }
    }
}
