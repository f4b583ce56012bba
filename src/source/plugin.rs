//! Is an output plugin there, and may we use it? Asked with a temporary slot, which vanishes with
//! its connection: nothing is left on the source.

use proxy::client::{self, ReplicationConnection};

/// What decodes the source's log for us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plugin {
    /// wal2json, format version 2. Follows whatever is in the schemas.
    #[default]
    Wal2json,
    /// Postgres' own. Follows what our publications name.
    Pgoutput,
}

impl Plugin {
    /// Its name on the source.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wal2json => "wal2json",
            Self::Pgoutput => "pgoutput",
        }
    }

    /// The plugin of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Wal2json, Self::Pgoutput].into_iter().find(|plugin| plugin.as_str() == name)
    }
}

/// What a temporary slot said about a plugin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// It works.
    Works {
        /// NaN and infinities can be told from NULL: not by wal2json before 2.6.
        tells_nan_from_null: bool,
    },
    /// It works, but a transaction is open that slot creation has to wait for.
    Blocked,
    /// The server refuses it because `output_plugin_libraries` does not list it. That check comes
    /// before the file is looked for, so it may be missing as well.
    NotListed,
    /// The plugin is not installed.
    NotInstalled,
    /// Another check says what is wrong.
    Unasked(&'static str),
    /// Something else.
    Failed(String),
}

/// Slot creation waits for open transactions; `statement_timeout` does not apply to walsenders,
/// `lock_timeout` does (replication notes, section 3.6).
pub(super) const PROBE_OPTIONS: &str = "-c lock_timeout=5s";

/// Makes a temporary slot with the plugin; it is gone with the connection.
pub(super) async fn probe(connection: &mut ReplicationConnection, plugin: Plugin) -> Probe {
    let slot = format!("ardent_probe_{:08x}", rand::random::<u32>());
    let create = format!(
        "CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY LOGICAL {} NOEXPORT_SNAPSHOT",
        plugin.as_str()
    );
    if let Err(error) = connection.command(&create).await {
        return classify(&error);
    }
    match plugin {
        Plugin::Wal2json => ask_wal2json(connection, &slot).await,
        Plugin::Pgoutput => Probe::Works { tells_nan_from_null: true },
    }
}

async fn ask_wal2json(connection: &mut ReplicationConnection, slot: &str) -> Probe {
    let options = [
        ("format-version".to_owned(), "2".to_owned()),
        ("numeric-data-types-as-string".to_owned(), "1".to_owned()),
    ];
    let tells_nan_from_null = match connection.start(slot, "0/0", &options).await {
        Ok(()) => true,
        Err(error) if is_unknown_option(&error) => false,
        Err(error) => return classify(&error),
    };
    Probe::Works { tells_nan_from_null }
}

fn classify(error: &client::Error) -> Probe {
    let Some(message) = error.server_message() else { return Probe::Failed(error.to_string()) };
    match message.code.as_str() {
        "55P03" | "57014" => Probe::Blocked,
        "42501" if message.message.contains("may not be used as an output plugin") => {
            Probe::NotListed
        }
        "58P01" => Probe::NotInstalled,
        "55000" => Probe::Unasked("wal level must be logical first"),
        "53400" => Probe::Unasked("a free replication slot is needed first"),
        _ => Probe::Failed(message.message.clone()),
    }
}

/// wal2json's own words for an option that this version lacks.
fn is_unknown_option(error: &client::Error) -> bool {
    error.server_message().is_some_and(|message| message.message.ends_with("is unknown"))
}
