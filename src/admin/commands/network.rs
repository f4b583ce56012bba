//! `ARDENT ENVIRONMENT ...` and `ARDENT PRIVATE LINK ...`: ways into private networks.

use crate::admin::grammar::{Command, Item, OptionKind, OptionSpec};
use crate::admin::request::Level;
use crate::admin::statement::Statement;

/// Not a branch's kind of name: `env_1` is one.
const NAME: Item = Item::Identifier("name");

pub(super) const COMMANDS: &[Command] = &[
    Command {
        grammar: &[
            Item::Word("ENVIRONMENT"),
            Item::Word("CREATE"),
            NAME,
            Item::Text("ssh://... | socks5://..."),
            Item::Optional(&[
                Item::Word("WITH"),
                Item::Options(&[
                    OptionSpec {
                        name: "key",
                        kind: OptionKind::Text,
                        summary: "private key for ssh",
                    },
                    OptionSpec {
                        name: "known_host",
                        kind: OptionKind::Text,
                        summary: "the host's public key, a line of known_hosts",
                    },
                ]),
            ]),
        ],
        level: Level::Admin,
        columns: &[],
        summary: "name a way into a private network",
        build: |_| Ok(Statement::Unsupported("ENVIRONMENT CREATE")),
    },
    Command {
        grammar: &[Item::Word("ENVIRONMENT"), Item::Word("LIST")],
        level: Level::Viewer,
        columns: &[],
        summary: "all environments",
        build: |_| Ok(Statement::Unsupported("ENVIRONMENT LIST")),
    },
    Command {
        grammar: &[Item::Word("ENVIRONMENT"), Item::Word("DELETE"), NAME],
        level: Level::Admin,
        columns: &[],
        summary: "delete an environment no connector uses",
        build: |_| Ok(Statement::Unsupported("ENVIRONMENT DELETE")),
    },
    Command {
        grammar: &[
            Item::Word("PRIVATE"),
            Item::Word("LINK"),
            Item::Word("CREATE"),
            NAME,
            Item::Word("ENVIRONMENT"),
            Item::Identifier("environment"),
            Item::Word("ENDPOINT"),
            Item::Text("host:port"),
        ],
        level: Level::Admin,
        columns: &[],
        summary: "name an endpoint inside an environment",
        build: |_| Ok(Statement::Unsupported("PRIVATE LINK CREATE")),
    },
    Command {
        grammar: &[Item::Word("PRIVATE"), Item::Word("LINK"), Item::Word("LIST")],
        level: Level::Viewer,
        columns: &[],
        summary: "all private links",
        build: |_| Ok(Statement::Unsupported("PRIVATE LINK LIST")),
    },
    Command {
        grammar: &[Item::Word("PRIVATE"), Item::Word("LINK"), Item::Word("DELETE"), NAME],
        level: Level::Admin,
        columns: &[],
        summary: "delete a private link no connector uses",
        build: |_| Ok(Statement::Unsupported("PRIVATE LINK DELETE")),
    },
];
