//! Names of the C library's locales: the same one is spelled in many ways.

use std::process::Stdio;

use tokio::process::Command;

use super::error::PostgresError;

/// The name of a source's locale on this host, for a database of that encoding.
pub async fn local(name: &str, encoding: &str) -> Result<String, PostgresError> {
    resolve(name, encoding, &installed().await?)
}

/// The name under which this host knows a locale of the source. The source's own spelling is kept
/// where the C library takes it, so that the trunk shows the same name.
fn resolve(name: &str, encoding: &str, installed: &[String]) -> Result<String, PostgresError> {
    if matches!(name, "C" | "POSIX") {
        return Ok(name.to_owned());
    }
    let known = |wanted: &str| {
        let wanted = normalized(wanted);
        installed.iter().any(|candidate| normalized(candidate) == wanted)
    };
    let (language, modifier) = name.split_once('@').unwrap_or((name, ""));
    let at = if modifier.is_empty() { "" } else { "@" };
    let candidates = [
        Some(name.to_owned()),
        // Some systems name a UTF-8 locale without its encoding.
        (encoding == "UTF8" && !language.contains('.'))
            .then(|| format!("{language}.UTF-8{at}{modifier}")),
    ];
    let found = candidates.into_iter().flatten().find(|candidate| known(candidate));
    found.ok_or_else(|| PostgresError::LocaleMissing(name.to_owned()))
}

/// What `locale -a` lists.
async fn installed() -> Result<Vec<String>, PostgresError> {
    let output = Command::new("locale")
        .arg("-a")
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(PostgresError::io("run locale -a"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// The form in which glibc compares names: `en_US.UTF-8` -> `en_US.utf8`.
fn normalized(name: &str) -> String {
    let (language, modifier) = name.split_once('@').unwrap_or((name, ""));
    let (language, codeset) = language.split_once('.').unwrap_or((language, ""));
    let codeset: String =
        codeset.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    format!("{language}.{codeset}@{modifier}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_host(name: &str, encoding: &str) -> Result<String, PostgresError> {
        let installed = ["C", "C.utf8", "POSIX", "en_US.utf8", "de_DE.utf8@euro"];
        resolve(name, encoding, &installed.map(str::to_owned))
    }

    #[test]
    fn keeps_a_spelling_the_c_library_takes() {
        for name in ["C", "POSIX", "C.UTF-8", "C.utf8", "en_US.UTF-8", "en_US.utf8"] {
            assert_eq!(on_host(name, "UTF8").unwrap(), name);
        }
    }

    #[test]
    fn finds_the_utf8_spelling_of_a_bare_name() {
        assert_eq!(on_host("en_US", "UTF8").unwrap(), "en_US.UTF-8");
        assert_eq!(on_host("de_DE@euro", "UTF8").unwrap(), "de_DE.UTF-8@euro");
        assert!(on_host("en_US", "LATIN1").is_err());
    }

    #[test]
    fn names_what_to_generate() {
        let error = on_host("sv_SE.UTF-8", "UTF8").unwrap_err().to_string();
        assert!(error.contains("sv_SE.UTF-8") && error.contains("locale-gen"), "{error}");
    }
}
