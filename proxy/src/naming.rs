//! From what a client calls itself to where it wants to go. Pure.
//!
//! An endpoint may be named in these ways; all that are present must agree:
//! 1. startup parameter `ardent.branch`, or the same in `options` (`-c ardent.branch=x`,
//!    `--ardent.branch=x`);
//! 2. the host `endpoint.domain`, which TLS clients tell (SNI);
//! 3. the user `role.endpoint`, split at the last dot;
//! 4. the database `database@endpoint`, split at the last `@`;
//! 5. the listener's default, if nothing else is named.
//!
//! A suffix (3, 4) counts only if it is an endpoint: roles may hold dots. So that names cannot be
//! probed, a suffix that looks like a name but is none leads to a login that always fails, and a
//! contradiction that involves a suffix is told only after the login succeeded.

use crate::refusal::Refusal;
use crate::wire::Parameters;

/// The database name that means the admin console.
const ADMIN_DATABASE: &[u8] = b"ardent";
const BRANCH_PARAMETER: &[u8] = b"ardent.branch";

/// Where a client wants to go, and as whom.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) target: Target,
    /// Which of the ways decided.
    pub(crate) named_by: &'static str,
    /// The user as the client wrote it: shown in errors.
    pub(crate) user: Vec<u8>,
    /// The role to log in as.
    pub(crate) role: Vec<u8>,
    /// What to send to the compute.
    pub(crate) parameters: Parameters,
    /// Told after authentication.
    pub(crate) contradiction: Option<Refusal>,
}

/// What a login leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Console,
    Endpoint(String),
    /// A name that leads nowhere: the login runs and fails.
    Nowhere(String),
}

/// What a connection brings besides its startup parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// The endpoint in the host name of an encrypted connection (SNI).
    pub(crate) host_endpoint: Option<&'a str>,
    pub(crate) default_endpoint: Option<&'a str>,
    pub(crate) over_unix_socket: bool,
}

/// Decides where a login goes.
pub(crate) fn login(
    parameters: Parameters,
    origin: Origin<'_>,
    is_endpoint: impl Fn(&str) -> bool,
) -> Result<Login, Refusal> {
    let user = parameters.value(b"user").unwrap_or_default().to_vec();
    if user.is_empty() {
        let text = "no PostgreSQL user name specified in startup packet";
        return Err(Refusal::fatal("28000", text));
    }
    let database = parameters.value(b"database").filter(|name| !name.is_empty());
    let database = database.unwrap_or(&user).to_vec();
    let explicit = explicit_name(&parameters, origin.host_endpoint)?;

    let (role, from_user) = Suffix::of(&user, b'.', &is_endpoint);
    // libpq sends the user's name for a database that was not given.
    let (plain_database, from_database) = if database == user {
        (role.clone(), Suffix::None)
    } else {
        Suffix::of(&database, b'@', &is_endpoint)
    };

    let explicit_name = explicit.as_ref().map(|(_, name)| name.as_str());
    let contradiction = contradiction(explicit_name, &from_user, &from_database);
    let ways = [
        explicit,
        from_user.endpoint().map(|name| ("user", name)),
        from_database.endpoint().map(|name| ("database", name)),
        origin.default_endpoint.map(|name| ("listener", name.to_owned())),
    ];
    let (named_by, target) = match ways.into_iter().flatten().next() {
        Some((way, name)) if is_endpoint(&name) => (way, Target::Endpoint(name)),
        Some((way, name)) => (way, Target::Nowhere(name)),
        None if origin.over_unix_socket || database == ADMIN_DATABASE => {
            ("console", Target::Console)
        }
        None => match from_user.lookalike().or_else(|| from_database.lookalike()) {
            Some(name) => ("unknown", Target::Nowhere(name)),
            None => return Err(nothing_named()),
        },
    };
    let parameters = for_compute(&parameters, &role, &plain_database);
    Ok(Login { target, named_by, user, role, parameters, contradiction })
}

/// The part of a name behind its separator.
enum Suffix {
    None,
    Endpoint(String),
    /// Has the form of an endpoint's name but is none.
    Lookalike(String),
}

impl Target {
    /// The endpoint that was named, or nothing for the console.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Console => "",
            Self::Endpoint(name) | Self::Nowhere(name) => name,
        }
    }
}

impl Suffix {
    fn of(name: &[u8], separator: u8, is_endpoint: impl Fn(&str) -> bool) -> (Vec<u8>, Self) {
        let whole = || name.to_vec();
        let Some(at) = name.iter().rposition(|&byte| byte == separator) else {
            return (whole(), Self::None);
        };
        let (Some(head), Some(tail)) = (name.get(..at), name.get(at + 1..)) else {
            return (whole(), Self::None);
        };
        match std::str::from_utf8(tail) {
            Ok(tail) if !head.is_empty() && is_endpoint(tail) => {
                (head.to_vec(), Self::Endpoint(tail.to_owned()))
            }
            Ok(tail) if !head.is_empty() && has_form_of_name(tail) => {
                (whole(), Self::Lookalike(tail.to_owned()))
            }
            _ => (whole(), Self::None),
        }
    }

    fn endpoint(&self) -> Option<String> {
        if let Self::Endpoint(name) = self { Some(name.clone()) } else { None }
    }

    fn lookalike(&self) -> Option<String> {
        if let Self::Lookalike(name) = self { Some(name.clone()) } else { None }
    }
}

fn has_form_of_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(allowed)
}

/// The endpoint named by parameter. Two different ones cannot agree whatever exists, so that is
/// told at once.
fn explicit_name(
    parameters: &Parameters,
    host: Option<&str>,
) -> Result<Option<(&'static str, String)>, Refusal> {
    let direct = parameters.value(BRANCH_PARAMETER).map(<[u8]>::to_vec);
    let in_options = parameters.value(b"options").and_then(branch_in_options);
    let text = |name: Vec<u8>| {
        String::from_utf8(name).map_err(|_| Refusal::fatal("08004", "branch name is not UTF-8"))
    };
    let direct = direct.map(text).transpose()?;
    let in_options = in_options.map(text).transpose()?;
    let host = host.map(str::to_owned);
    let sources = [("ardent.branch", direct), ("options", in_options), ("host name", host)];
    let mut named = sources
        .into_iter()
        .filter_map(|(source, name)| Some((source, name.filter(|name| !name.is_empty())?)));
    let Some((source, name)) = named.next() else { return Ok(None) };
    match named.find(|(_, other)| *other != name) {
        Some((other, second)) => Err(disagreement(source, &name, other, &second)),
        None => Ok(Some((source, name))),
    }
}

fn contradiction(
    explicit: Option<&str>,
    from_user: &Suffix,
    from_database: &Suffix,
) -> Option<Refusal> {
    let (user, database) = (from_user.endpoint(), from_database.endpoint());
    let sources = [
        ("connection", explicit.map(str::to_owned)),
        ("user name", user),
        ("database name", database),
    ];
    let mut named = sources.iter().filter_map(|(source, name)| Some((source, name.as_deref()?)));
    let (first_source, first) = named.next()?;
    let (other_source, other) = named.find(|(_, name)| *name != first)?;
    Some(disagreement(first_source, first, other_source, other))
}

fn disagreement(source: &str, name: &str, other_source: &str, other: &str) -> Refusal {
    let text = format!("{source} names branch \"{name}\", but {other_source} names \"{other}\"");
    Refusal::fatal("08004", text).with_hint("Name one branch, in one place.")
}

fn nothing_named() -> Refusal {
    Refusal::fatal("08004", "no branch given").with_hint(
        "Connect as user role.branch, or to database name@branch, or set the startup parameter \
         ardent.branch (PGOPTIONS='-c ardent.branch=name'). The admin console is database ardent.",
    )
}

/// Finds `ardent.branch` in the `options` parameter, which Postgres splits at white space, with
/// backslash escaping the next byte (pg_split_opts in postinit.c). The last one wins.
fn branch_in_options(options: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    let mut words = split_options(options).into_iter();
    while let Some(word) = words.next() {
        let assignment = if word == b"-c" {
            words.next().unwrap_or_default()
        } else if let Some(rest) = word.strip_prefix(b"--") {
            rest.to_vec()
        } else if let Some(rest) = word.strip_prefix(b"-c") {
            rest.to_vec()
        } else {
            continue;
        };
        let value = assignment.strip_prefix(BRANCH_PARAMETER);
        if let Some(value) = value.and_then(|rest| rest.strip_prefix(b"=")) {
            found = Some(value.to_vec());
        }
    }
    found
}

fn split_options(options: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = options.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte.is_ascii_whitespace() || byte == 0x0b {
            words.extend(word.take());
            continue;
        }
        let byte = if byte == b'\\' { bytes.next().unwrap_or(b'\\') } else { byte };
        word.get_or_insert_default().push(byte);
    }
    words.extend(word);
    words
}

/// All parameters in order, with user and database replaced and protocol options left out: they
/// were negotiated here. `ardent.branch` stays: a dotted name is a legal setting in Postgres.
fn for_compute(parameters: &Parameters, role: &[u8], database: &[u8]) -> Parameters {
    let mut forwarded =
        vec![(b"user".to_vec(), role.to_vec()), (b"database".to_vec(), database.to_vec())];
    for (name, value) in &parameters.0 {
        if name != b"user" && name != b"database" && !name.starts_with(b"_pq_.") {
            forwarded.push((name.clone(), value.clone()));
        }
    }
    Parameters(forwarded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Origin<'_> =
        Origin { host_endpoint: None, default_endpoint: None, over_unix_socket: false };

    fn go(pairs: &[(&str, &str)], origin: Origin<'_>) -> Result<Login, Refusal> {
        let pairs = pairs.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec()));
        login(Parameters(pairs.collect()), origin, |name| ["b1", "b2"].contains(&name))
    }

    fn lands(pairs: &[(&str, &str)]) -> (Target, String, String) {
        let login = go(pairs, TCP).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let database = text(login.parameters.value(b"database").unwrap());
        (login.target, text(&login.role), database)
    }

    fn to(endpoint: &str, role: &str, database: &str) -> (Target, String, String) {
        (Target::Endpoint(endpoint.into()), role.into(), database.into())
    }

    #[test]
    fn every_way_to_name_an_endpoint() {
        let user = ("user", "app");
        assert_eq!(lands(&[user, ("ardent.branch", "b1")]), to("b1", "app", "app"));
        assert_eq!(lands(&[("user", "app.b1"), ("database", "d")]), to("b1", "app", "d"));
        assert_eq!(lands(&[("user", "a.b.b2"), ("database", "d")]), to("b2", "a.b", "d"));
        assert_eq!(lands(&[("user", "app.b1"), ("database", "app.b1")]), to("b1", "app", "app"));
        assert_eq!(lands(&[user, ("database", "d@b1")]), to("b1", "app", "d"));
        for options in ["-c ardent.branch=b1", "--ardent.branch=b1", "-cardent.branch=b1 -c a=b"] {
            assert_eq!(lands(&[user, ("options", options)]), to("b1", "app", "app"), "{options}");
        }
        let both = [("user", "app.b1"), ("database", "d@b1"), ("ardent.branch", "b1")];
        assert_eq!(lands(&both), to("b1", "app", "d"));
    }

    #[test]
    fn a_suffix_that_names_nothing_is_part_of_the_role() {
        assert_eq!(lands(&[("user", "a.x"), ("ardent.branch", "b1")]), to("b1", "a.x", "a.x"));
        let (target, role, _) = lands(&[("user", "app.nope"), ("database", "d")]);
        assert_eq!((target, role), (Target::Nowhere("nope".into()), "app.nope".into()));
        assert_eq!(
            lands(&[("user", "a"), ("ardent.branch", "zz")]).0,
            Target::Nowhere("zz".into())
        );
    }

    #[test]
    fn nothing_named() {
        let refused = go(&[("user", "app"), ("database", "d")], TCP).unwrap_err();
        assert_eq!(refused.sqlstate, "08004");
        assert!(refused.hint.unwrap().contains("ardent.branch"));
        assert_eq!(lands(&[("user", "op"), ("database", "ardent")]).0, Target::Console);
        let unix = Origin { over_unix_socket: true, ..TCP };
        assert_eq!(go(&[("user", "op"), ("database", "d")], unix).unwrap().target, Target::Console);
        let port = Origin { default_endpoint: Some("b2"), ..TCP };
        let target = |pairs| go(pairs, port).unwrap().target;
        assert_eq!(target(&[("user", "app")]), Target::Endpoint("b2".into()));
        assert_eq!(target(&[("user", "app.b1")]), Target::Endpoint("b1".into()));
        assert_eq!(go(&[("database", "d")], TCP).unwrap_err().sqlstate, "28000");
    }

    #[test]
    fn the_host_name_names_an_endpoint() {
        let host = Origin { host_endpoint: Some("b1"), ..TCP };
        let target = |pairs| go(pairs, host).map(|login| login.target);
        assert_eq!(target(&[("user", "app")]), Ok(Target::Endpoint("b1".into())));
        let refused = target(&[("user", "app"), ("ardent.branch", "b2")]).unwrap_err();
        assert_eq!(refused.sqlstate, "08004");
        assert!(go(&[("user", "app.b2")], host).unwrap().contradiction.is_some());
    }

    #[test]
    fn sources_must_agree() {
        let options = ("options", "-c ardent.branch=b2");
        let refused = go(&[("user", "app"), ("ardent.branch", "b1"), options], TCP).unwrap_err();
        assert_eq!(refused.sqlstate, "08004");
        let login = go(&[("user", "app.b1"), ("database", "d@b2")], TCP).unwrap();
        let text = login.contradiction.unwrap().message;
        assert_eq!(text, "user name names branch \"b1\", but database name names \"b2\"");
    }

    #[test]
    fn options_are_split_as_postgres_does() {
        let branch = |text: &str| {
            branch_in_options(text.as_bytes()).map(|name| String::from_utf8(name).unwrap())
        };
        assert_eq!(branch("-c  ardent.branch=b1\t-c x=y").as_deref(), Some("b1"));
        assert_eq!(branch(r"-c ardent.branch=a\ b").as_deref(), Some("a b"));
        assert_eq!(branch("-c ardent.branch=a -c ardent.branch=b").as_deref(), Some("b"));
        assert_eq!(branch("-c"), None);
        assert_eq!(branch(r"\"), None);
    }

    #[test]
    fn protocol_options_stay_here() {
        let pairs = [("user", "app.b1"), ("_pq_.x", "1"), ("DateStyle", "ISO")];
        let names: Vec<_> = go(&pairs, TCP).unwrap().parameters.0;
        let names: Vec<_> = names.iter().map(|(name, _)| name.as_slice()).collect();
        assert_eq!(names, [&b"user"[..], b"database", b"DateStyle"]);
    }
}
