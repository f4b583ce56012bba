//! `ARDENT SETTINGS ...`: what is set for the current connector.

use std::time::Duration;

use proxy::ColumnKind::{Int8, Text};

use crate::admin::arguments::{self, Arguments};
use crate::admin::error::sqlstate;
use crate::admin::grammar::{Command, Item, OptionKind, OptionSpec};
use crate::admin::request::{HookChange, Level, SettingChange};
use crate::admin::statement::Statement;
use crate::admin::syntax::{SyntaxError, did_you_mean};
use crate::catalog::SettingKey;

const SETTING: &[(&str, proxy::ColumnKind)] = &[
    ("key", Text),
    ("value", Text),
    ("summary", Text),
    ("hook", Text),
    ("position", Int8),
    ("database", Text),
    ("run_as", Text),
    ("connector", Text),
];

const HOOK: OptionSpec = OptionSpec {
    name: "hook",
    kind: OptionKind::Text,
    summary: "branch_sql: name of the script; there can be several",
};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        grammar: &[Item::Word("SETTINGS"), Item::Word("LIST")],
        level: Level::Viewer,
        columns: SETTING,
        summary: "the settings of the current connector",
        build: |_| Ok(Statement::SettingsList),
    },
    Command {
        grammar: &[
            Item::Word("SETTINGS"),
            Item::Word("SET"),
            Item::Identifier("key"),
            Item::Equals,
            Item::Value("value"),
            Item::Optional(&[
                Item::Word("WITH"),
                Item::Options(&[
                    HOOK,
                    OptionSpec {
                        name: "position",
                        kind: OptionKind::Count,
                        summary: "branch_sql: lower scripts run first; default: 0",
                    },
                    OptionSpec {
                        name: "database",
                        kind: OptionKind::Text,
                        summary: "branch_sql: where it runs; default: the source's database",
                    },
                    OptionSpec {
                        name: "run_as",
                        kind: OptionKind::Text,
                        summary: "branch_sql: the role it runs as; default: branch_owner",
                    },
                ]),
            ]),
        ],
        level: Level::Admin,
        columns: SETTING,
        summary: "change a setting of the current connector",
        build: |arguments| Ok(Statement::SettingsSet(change(arguments)?)),
    },
    Command {
        grammar: &[
            Item::Word("SETTINGS"),
            Item::Word("REMOVE"),
            Item::Identifier("key"),
            Item::Optional(&[Item::Word("WITH"), Item::Options(&[HOOK])]),
        ],
        level: Level::Admin,
        columns: &[("key", Text), ("hook", Text)],
        summary: "put a setting back to its default",
        build: |arguments| {
            Ok(Statement::SettingsRemove {
                key: key(arguments)?,
                hook: arguments.optional_text("hook").map(str::to_owned),
            })
        },
    },
];

fn key(arguments: &Arguments) -> Result<SettingKey, SyntaxError> {
    let text = arguments.text("key");
    SettingKey::parse(text).ok_or_else(|| {
        let keys = SettingKey::ALL.map(SettingKey::as_str);
        SyntaxError::at(arguments.offset("key"), format!("unrecognized setting \"{text}\""))
            .with_sqlstate(sqlstate::INVALID_PARAMETER)
            .with_detail(format!("Settings: {}.", keys.join(", ")))
            .with_hint(did_you_mean(text, keys))
    })
}

fn change(arguments: &Arguments) -> Result<SettingChange, SyntaxError> {
    let value = arguments.text("value").to_owned();
    let key = key(arguments)?;
    let is_about_hooks =
        ["hook", "position", "database", "run_as"].into_iter().find(|o| arguments.contains(o));
    if let (Some(option), true) = (is_about_hooks, key != SettingKey::BranchSql) {
        let message = format!("option \"{option}\" is for branch_sql only");
        return Err(SyntaxError::at(arguments.offset(option), message)
            .with_sqlstate(sqlstate::INVALID_PARAMETER));
    }
    Ok(match key {
        SettingKey::DefaultDb | SettingKey::BranchSql if value.trim().is_empty() => {
            let hint = format!("To unset it: ARDENT SETTINGS REMOVE {}", key.as_str());
            return Err(SyntaxError::at(arguments.offset("value"), "the value is empty")
                .with_sqlstate(sqlstate::INVALID_PARAMETER)
                .with_hint(Some(hint)));
        }
        SettingKey::DefaultDb => SettingChange::DefaultDb(value),
        SettingKey::SuspendAfter => SettingChange::SuspendAfter(duration(arguments, &value)?),
        SettingKey::FreshnessTimeout => {
            SettingChange::FreshnessTimeout(duration(arguments, &value)?)
        }
        SettingKey::BranchSql => {
            let text = |key| arguments.optional_text(key).map(str::to_owned);
            SettingChange::BranchSql(HookChange {
                name: text("hook"),
                sql: value,
                position: arguments
                    .number("position")
                    .and_then(|number| i64::try_from(number).ok()),
                database: text("database"),
                run_as: text("run_as"),
            })
        }
    })
}

fn duration(arguments: &Arguments, value: &str) -> Result<Duration, SyntaxError> {
    arguments::duration(value).ok_or_else(|| {
        SyntaxError::at(arguments.offset("value"), "invalid length of time")
            .with_sqlstate(sqlstate::INVALID_PARAMETER)
            .with_detail("Expected a number with a unit: ms, s, min, h or d, as in '30s'.")
    })
}
