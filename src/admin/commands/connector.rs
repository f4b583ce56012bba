//! `ARDENT CONNECTOR ...`

use proxy::ColumnKind::{Bool, Int8, Text, Timestamptz};

use crate::admin::arguments::Arguments;
use crate::admin::error::sqlstate;
use crate::admin::grammar::{Command, Item, OptionKind, OptionSpec};
use crate::admin::request::{
    CreateConnectorRequest, Decisions, Level, Plugin, RetrySetupRequest, SourceRequest,
    VerifyRequest,
};
use crate::admin::statement::Statement;
use crate::admin::syntax::SyntaxError;

const SCHEMAS: OptionSpec = OptionSpec {
    name: "schemas",
    kind: OptionKind::Text,
    summary: "schemas to follow, comma-separated; default: all but the system's",
};
const PLUGIN: OptionSpec = OptionSpec {
    name: "plugin",
    kind: OptionKind::Choice(&["auto", "wal2json", "pgoutput"]),
    summary: "logical decoding plugin; default: auto",
};
const ENVIRONMENT: OptionSpec = OptionSpec {
    name: "environment",
    kind: OptionKind::Text,
    summary: "the way into a private network",
};
const PRIVATE_LINK: OptionSpec = OptionSpec {
    name: "private_link",
    kind: OptionKind::Text,
    summary: "the named endpoint inside that network",
};
const BYOC: OptionSpec = OptionSpec {
    name: "byoc",
    kind: OptionKind::Flag,
    summary: "go through an environment; the only one there is unless one is named",
};
const DECISIONS: OptionSpec = OptionSpec {
    name: "replica_identity_decisions",
    kind: OptionKind::Text,
    summary: "JSON: table to exclude, add_pk or replica_identity_full",
};
const ACCEPT_DEFAULTS: OptionSpec = OptionSpec {
    name: "accept_replica_identity_defaults",
    kind: OptionKind::Flag,
    summary: "exclude tables that are not decided on",
};
const SETUP: OptionSpec = OptionSpec {
    name: "setup",
    kind: OptionKind::Flag,
    summary: "begin setup; off stops before it and says what is to be decided; default: on",
};
const WAIT: OptionSpec = OptionSpec {
    name: "wait",
    kind: OptionKind::Flag,
    summary: "return when setup has ended; default: on",
};

const NAME: Item = Item::Name("name");

/// The columns of a table that is not followed.
const QUARANTINE: &[(&str, proxy::ColumnKind)] =
    &[("table", Text), ("state", Text), ("reason", Text), ("since", Timestamptz)];

/// The columns of a connector's row.
const CONNECTOR: &[(&str, proxy::ColumnKind)] = &[
    ("name", Text),
    ("id", Text),
    ("service", Text),
    ("state", Text),
    ("warnings", Text),
    ("current", Bool),
    ("source", Text),
    ("locked", Bool),
    ("lock_reason", Text),
    ("undecided", Text),
    ("created_at", Timestamptz),
];

const RETRY_SETUP: &[(&str, proxy::ColumnKind)] = &[
    ("name", Text),
    ("id", Text),
    ("service", Text),
    ("state", Text),
    ("warnings", Text),
    ("current", Bool),
    ("source", Text),
    ("locked", Bool),
    ("lock_reason", Text),
    ("undecided", Text),
    ("created_at", Timestamptz),
    ("no_work_needed", Bool),
];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        grammar: &[
            Item::Word("CONNECTOR"),
            Item::Word("PREFLIGHT"),
            Item::Word("postgresql"),
            Item::Text("url"),
            Item::Optional(&[
                Item::Word("WITH"),
                Item::Options(&[SCHEMAS, PLUGIN, BYOC, ENVIRONMENT, PRIVATE_LINK]),
            ]),
        ],
        level: Level::Operator,
        columns: &[
            ("ordinal", Int8),
            ("kind", Text),
            ("name", Text),
            ("status", Text),
            ("detail", Text),
            ("remedy", Text),
        ],
        summary: "check a source; creates and stores nothing",
        build: |arguments| Ok(Statement::ConnectorPreflight(source(arguments))),
    },
    Command {
        grammar: &[
            Item::Word("CONNECTOR"),
            Item::Word("CREATE"),
            Item::Word("postgresql"),
            Item::Text("url"),
            Item::Optional(&[Item::Word("NAME"), NAME]),
            Item::Optional(&[
                Item::Word("WITH"),
                Item::Options(&[
                    SCHEMAS,
                    PLUGIN,
                    DECISIONS,
                    ACCEPT_DEFAULTS,
                    BYOC,
                    ENVIRONMENT,
                    PRIVATE_LINK,
                    SETUP,
                    WAIT,
                ]),
            ]),
        ],
        level: Level::Admin,
        columns: CONNECTOR,
        summary: "follow a source: preflight, first copy, then its changes",
        build: |arguments| {
            Ok(Statement::ConnectorCreate(CreateConnectorRequest {
                name: arguments.optional_name("name"),
                source: source(arguments),
                decisions: decisions(arguments)?,
                setup: arguments.flag("setup", true),
                wait: arguments.flag("wait", true),
            }))
        },
    },
    Command {
        grammar: &[Item::Word("CONNECTOR"), Item::Word("LIST")],
        level: Level::Viewer,
        columns: CONNECTOR,
        summary: "all connectors",
        build: |_| Ok(Statement::ConnectorList),
    },
    Command {
        grammar: &[Item::Word("CONNECTOR"), Item::Word("STATUS"), Item::Optional(&[NAME])],
        level: Level::Viewer,
        columns: &[
            ("name", Text),
            ("state", Text),
            ("warnings", Text),
            ("plugin", Text),
            ("ddl_mode", Text),
            ("received_lsn", Text),
            ("applied_lsn", Text),
            ("confirmed_lsn", Text),
            ("lag_bytes", Int8),
            ("retained_wal_bytes", Int8),
            ("slot", Text),
            ("phase", Text),
            ("bytes_done", Int8),
            ("bytes_total", Int8),
            ("service", Text),
            ("error", Text),
            ("rows_done", Int8),
            ("tables_done", Int8),
            ("tables_total", Int8),
            ("bytes_per_second", Int8),
            ("remaining_s", Int8),
            ("copying", Text),
            ("oldest_transaction", Text),
            ("oldest_transaction_s", Int8),
            ("verified_lsn", Text),
            ("verified_at", Timestamptz),
            ("differences", Int8),
        ],
        summary: "how far setup is, and how far behind the source",
        build: |arguments| Ok(Statement::ConnectorStatus(arguments.optional_name("name"))),
    },
    Command {
        grammar: &[Item::Word("CONNECTOR"), Item::Word("SWITCH"), NAME],
        level: Level::Operator,
        columns: &[("previous", Text), ("name", Text)],
        summary: "make a connector the current one",
        build: |arguments| Ok(Statement::ConnectorSwitch(arguments.name("name"))),
    },
    Command {
        grammar: &[
            Item::Word("CONNECTOR"),
            Item::Word("VERIFY"),
            Item::Optional(&[NAME]),
            Item::Optional(&[
                Item::Word("WITH"),
                Item::Options(&[
                    OptionSpec {
                        name: "tables",
                        kind: OptionKind::Text,
                        summary: "tables to compare, comma-separated; default: all",
                    },
                    OptionSpec {
                        name: "sample",
                        kind: OptionKind::Count,
                        summary: "rows to compare per table; default: all",
                    },
                ]),
            ]),
        ],
        level: Level::Operator,
        columns: &[("object", Text), ("kind", Text), ("verdict", Text), ("detail", Text)],
        summary: "compare the trunk with the source",
        build: |arguments| {
            Ok(Statement::ConnectorVerify(VerifyRequest {
                name: arguments.optional_name("name"),
                tables: arguments.list("tables"),
                sample: arguments.number("sample"),
            }))
        },
    },
    Command {
        grammar: &[
            Item::Word("CONNECTOR"),
            Item::Word("RETRY"),
            Item::Word("SETUP"),
            NAME,
            Item::Optional(&[
                Item::Word("WITH"),
                Item::Options(&[DECISIONS, ACCEPT_DEFAULTS, SETUP]),
            ]),
        ],
        level: Level::Admin,
        columns: RETRY_SETUP,
        summary: "carry on with setup, or join it",
        build: |arguments| {
            Ok(Statement::ConnectorRetrySetup(RetrySetupRequest {
                name: arguments.name("name"),
                decisions: decisions(arguments)?,
                setup: arguments.flag("setup", true),
            }))
        },
    },
    Command {
        grammar: &[
            Item::Word("CONNECTOR"),
            Item::Word("UPDATE"),
            NAME,
            Item::Word("SET"),
            Item::Options(&[OptionSpec {
                name: "drop_extensions",
                kind: OptionKind::Text,
                summary: "extensions left out of future branches, comma-separated",
            }]),
        ],
        level: Level::Admin,
        columns: &[("name", Text), ("drop_extensions", Text)],
        summary: "change what future branches leave out",
        build: |arguments| {
            Ok(Statement::ConnectorUpdate {
                name: arguments.name("name"),
                drop_extensions: arguments.list("drop_extensions"),
            })
        },
    },
    Command {
        grammar: &[
            Item::Word("CONNECTOR"),
            Item::Word("LOCK"),
            NAME,
            Item::Optional(&[Item::Word("REASON"), Item::Text("reason")]),
        ],
        level: Level::Admin,
        columns: CONNECTOR,
        summary: "refuse deletion of a connector",
        build: |arguments| {
            Ok(Statement::ConnectorLock {
                name: arguments.name("name"),
                reason: arguments.optional_text("reason").map(str::to_owned),
            })
        },
    },
    Command {
        grammar: &[Item::Word("CONNECTOR"), Item::Word("UNLOCK"), NAME],
        level: Level::Admin,
        columns: CONNECTOR,
        summary: "allow deletion again",
        build: |arguments| Ok(Statement::ConnectorUnlock(arguments.name("name"))),
    },
    Command {
        grammar: &[
            Item::Word("CONNECTOR"),
            Item::Word("DELETE"),
            NAME,
            Item::Optional(&[Item::Word("FORCE")]),
        ],
        level: Level::Admin,
        columns: &[("name", Text), ("deleted_branches", Text)],
        summary: "delete a connector and all it holds on its source",
        build: |arguments| {
            Ok(Statement::ConnectorDelete {
                name: arguments.name("name"),
                force: arguments.flag("FORCE", false),
            })
        },
    },
    Command {
        grammar: &[Item::Word("CONNECTOR"), Item::Word("QUARANTINE"), Item::Word("LIST"), NAME],
        level: Level::Viewer,
        columns: QUARANTINE,
        summary: "tables whose changes could not be applied",
        build: |arguments| Ok(Statement::QuarantineList(arguments.name("name"))),
    },
    Command {
        grammar: &[
            Item::Word("CONNECTOR"),
            Item::Word("QUARANTINE"),
            Item::Word("RELEASE"),
            NAME,
            Item::Text("schema.table"),
        ],
        level: Level::Admin,
        columns: QUARANTINE,
        summary: "copy a quarantined table anew and follow it again",
        build: |arguments| {
            Ok(Statement::QuarantineRelease {
                name: arguments.name("name"),
                table: arguments.text("schema.table").to_owned(),
            })
        },
    },
];

fn source(arguments: &Arguments) -> SourceRequest {
    SourceRequest {
        url: arguments.secret("url"),
        schemas: arguments.list("schemas"),
        plugin: match arguments.optional_text("plugin") {
            Some("wal2json") => Plugin::Wal2json,
            Some("pgoutput") => Plugin::Pgoutput,
            _ => Plugin::Auto,
        },
        byoc: arguments.flag("byoc", false),
        environment: arguments.optional_text("environment").map(str::to_owned),
        private_link: arguments.optional_text("private_link").map(str::to_owned),
    }
}

fn decisions(arguments: &Arguments) -> Result<Decisions, SyntaxError> {
    let text = arguments.optional_text("replica_identity_decisions").unwrap_or("{}");
    let tables = serde_json::from_str(text).map_err(|error| {
        SyntaxError::at(
            arguments.offset("replica_identity_decisions"),
            "invalid value for option \"replica_identity_decisions\"",
        )
        .with_sqlstate(sqlstate::INVALID_PARAMETER)
        .with_detail(format!("Not a JSON object of decisions: {error}."))
        .with_hint(Some(
            "Write {\"schema.table\": \"exclude\" | \"add_pk\" | \"replica_identity_full\"}."
                .to_owned(),
        ))
    })?;
    let accept_defaults = arguments.flag("accept_replica_identity_defaults", false);
    Ok(Decisions { tables, accept_defaults })
}
