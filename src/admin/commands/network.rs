//! `ARDENT ENVIRONMENT ...` and `ARDENT PRIVATE LINK ...`: ways into private networks.

use proxy::ColumnKind::{Text, Timestamptz};

use crate::admin::grammar::{Command, Item, OptionKind, OptionSpec};
use crate::admin::request::{CreateEnvironmentRequest, CreatePrivateLinkRequest, Level};
use crate::admin::statement::Statement;
use crate::secret::Secret;

/// Not a branch's kind of name: `env_1` is one.
const NAME: Item = Item::Identifier("name");

const ENVIRONMENT: &[(&str, proxy::ColumnKind)] = &[
    ("name", Text),
    ("address", Text),
    ("private_links", Text),
    ("connectors", Text),
    ("created_at", Timestamptz),
];

const PRIVATE_LINK: &[(&str, proxy::ColumnKind)] = &[
    ("name", Text),
    ("environment", Text),
    ("endpoint", Text),
    ("connectors", Text),
    ("created_at", Timestamptz),
];

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
        columns: ENVIRONMENT,
        summary: "name a way into a private network",
        build: |arguments| {
            Ok(Statement::EnvironmentCreate(CreateEnvironmentRequest {
                name: arguments.text("name").to_owned(),
                url: arguments.secret("ssh://... | socks5://..."),
                key: arguments.optional_text("key").map(Secret::new),
                known_host: arguments.optional_text("known_host").map(str::to_owned),
            }))
        },
    },
    Command {
        grammar: &[Item::Word("ENVIRONMENT"), Item::Word("LIST")],
        level: Level::Viewer,
        columns: ENVIRONMENT,
        summary: "all environments",
        build: |_| Ok(Statement::EnvironmentList),
    },
    Command {
        grammar: &[Item::Word("ENVIRONMENT"), Item::Word("DELETE"), NAME],
        level: Level::Admin,
        columns: &[("name", Text)],
        summary: "delete an environment no connector uses",
        build: |arguments| Ok(Statement::EnvironmentDelete(arguments.text("name").to_owned())),
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
        columns: PRIVATE_LINK,
        summary: "name an endpoint inside an environment",
        build: |arguments| {
            Ok(Statement::PrivateLinkCreate(CreatePrivateLinkRequest {
                name: arguments.text("name").to_owned(),
                environment: arguments.text("environment").to_owned(),
                endpoint: arguments.text("host:port").to_owned(),
            }))
        },
    },
    Command {
        grammar: &[Item::Word("PRIVATE"), Item::Word("LINK"), Item::Word("LIST")],
        level: Level::Viewer,
        columns: PRIVATE_LINK,
        summary: "all private links",
        build: |_| Ok(Statement::PrivateLinkList),
    },
    Command {
        grammar: &[Item::Word("PRIVATE"), Item::Word("LINK"), Item::Word("DELETE"), NAME],
        level: Level::Admin,
        columns: &[("name", Text)],
        summary: "delete a private link no connector uses",
        build: |arguments| Ok(Statement::PrivateLinkDelete(arguments.text("name").to_owned())),
    },
];
