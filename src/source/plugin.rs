//! Is an output plugin there, and may we use it? Asked with a temporary slot, which vanishes with
//! its connection: nothing is left on the source.

use proxy::client::{self, ReplicationConnection};

/// What a temporary slot said about wal2json.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// It works.
    Works {
        /// From 2.6 on, NaN and infinities can be told from NULL.
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

pub(super) async fn probe_wal2json(connection: &mut ReplicationConnection) -> Probe {
    let slot = format!("ardent_probe_{:08x}", rand::random::<u32>());
    let create =
        format!("CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY LOGICAL wal2json NOEXPORT_SNAPSHOT");
    if let Err(error) = connection.command(&create).await {
        return classify(&error);
    }
    let options = [
        ("format-version".to_owned(), "2".to_owned()),
        ("numeric-data-types-as-string".to_owned(), "1".to_owned()),
    ];
    let tells_nan_from_null = match connection.start(&slot, "0/0", &options).await {
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
