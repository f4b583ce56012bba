//! Whether a compute is in use, asked of the compute itself: sessions handed off to it are
//! unknown to the server.

use super::error::PostgresError;
use super::session::Session;

/// What would be lost or broken by a suspend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Client connections other than the server's own.
    pub sessions: u64,
    /// Transactions prepared for two-phase commit; they survive a shutdown but hold locks.
    pub prepared_transactions: u64,
}

impl Activity {
    /// True when nobody is connected and nothing is prepared.
    pub fn is_idle(self) -> bool {
        self == Self { sessions: 0, prepared_transactions: 0 }
    }
}

/// Asks a compute what it is doing. `session` is one of [`Session::system`].
pub async fn activity(session: &Session) -> Result<Activity, PostgresError> {
    let row = session
        .client()
        .query_one(
            "SELECT (SELECT count(*) FROM pg_catalog.pg_stat_activity
                      WHERE backend_type = 'client backend' AND usename <> 'ardent_system'),
                    (SELECT count(*) FROM pg_catalog.pg_prepared_xacts)",
            &[],
        )
        .await
        .map_err(PostgresError::query("count sessions of compute"))?;
    let count = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
    Ok(Activity { sessions: count(0), prepared_transactions: count(1) })
}
