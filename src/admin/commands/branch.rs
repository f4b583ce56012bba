//! `ARDENT BRANCH ...`

use proxy::ColumnKind::{Bool, Int8, Text, Timestamptz};

use crate::admin::grammar::{Command, Item, OptionKind, OptionSpec};
use crate::admin::request::{CreateBranchRequest, Level};
use crate::admin::statement::Statement;

const NAME: Item = Item::Name("name");

/// The columns of a branch's row.
const BRANCH: &[(&str, proxy::ColumnKind)] = &[
    ("name", Text),
    ("connector", Text),
    ("status", Text),
    ("url", Text),
    ("lsn", Text),
    ("commit_time", Timestamptz),
    ("age_s", Int8),
    ("stale", Bool),
    ("unique_bytes", Int8),
    ("shared_bytes", Int8),
    ("reclaimable_bytes", Int8),
    ("parent", Text),
    ("created_at", Timestamptz),
    ("compute_socket", Text),
    ("current", Bool),
    ("warnings", Text),
    ("max_size_bytes", Int8),
];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        grammar: &[
            Item::Word("BRANCH"),
            Item::Word("CREATE"),
            NAME,
            Item::Optional(&[Item::Word("FROM"), Item::Name("branch")]),
            Item::Optional(&[
                Item::Word("WITH"),
                Item::Options(&[
                    OptionSpec {
                        name: "role",
                        kind: OptionKind::Text,
                        summary: "the role its URL logs in as; default: branch_owner",
                    },
                    OptionSpec {
                        name: "max_size",
                        kind: OptionKind::Size,
                        summary: "the most it may come to hold of its own",
                    },
                    OptionSpec {
                        name: "freshness_timeout",
                        kind: OptionKind::Duration,
                        summary: "how long to wait for the source's present position",
                    },
                ]),
            ]),
        ],
        level: Level::Operator,
        columns: BRANCH,
        summary: "cut a branch from the current connector",
        build: |arguments| {
            Ok(Statement::BranchCreate(CreateBranchRequest {
                name: arguments.name("name"),
                from: arguments.optional_name("branch"),
                role: arguments.optional_text("role").map(str::to_owned),
                max_size_bytes: arguments.number("max_size"),
                freshness_timeout: arguments.duration("freshness_timeout"),
            }))
        },
    },
    Command {
        grammar: &[Item::Word("BRANCH"), Item::Word("LIST")],
        level: Level::Viewer,
        columns: &[
            ("name", Text),
            ("connector", Text),
            ("status", Text),
            ("created_at", Timestamptz),
            ("idle_s", Int8),
            ("current", Bool),
            ("warnings", Text),
        ],
        summary: "the branches of the current connector",
        build: |_| Ok(Statement::BranchList),
    },
    Command {
        grammar: &[Item::Word("BRANCH"), Item::Word("INFO"), Item::Optional(&[NAME])],
        level: Level::Viewer,
        columns: BRANCH,
        summary: "one branch, by default the current one, with its URL",
        build: |arguments| Ok(Statement::BranchInfo(arguments.optional_name("name"))),
    },
    Command {
        grammar: &[Item::Word("BRANCH"), Item::Word("SWITCH"), NAME],
        level: Level::Operator,
        columns: &[("previous", Text), ("name", Text), ("url", Text)],
        summary: "make a branch the current one",
        build: |arguments| Ok(Statement::BranchSwitch(arguments.name("name"))),
    },
    Command {
        grammar: &[Item::Word("BRANCH"), Item::Word("DELETE"), NAME],
        level: Level::Operator,
        columns: &[("name", Text)],
        summary: "delete a branch; its URL stops working at once",
        build: |arguments| Ok(Statement::BranchDelete(arguments.name("name"))),
    },
    Command {
        grammar: &[Item::Word("BRANCH"), Item::Word("ROTATE"), Item::Word("PASSWORD"), NAME],
        level: Level::Operator,
        columns: BRANCH,
        summary: "give a branch a new password; open sessions go on",
        build: |arguments| Ok(Statement::BranchRotatePassword(arguments.name("name"))),
    },
];
