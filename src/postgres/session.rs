//! A connection of the server itself to a compute, as `ardent_system`.
//!
//! Must never run code of the source or of a client as superuser: `search_path` is the system
//! catalog, and questions about the whole compute are asked in [`SYSTEM_DATABASE`], where no
//! client can create anything.

use std::path::Path;

use tokio_postgres::{Client, Config, NoTls};

use super::error::PostgresError;
use super::roles::{OWNER_ROLE, SYSTEM_DATABASE, SYSTEM_ROLE, is_reserved_role};

/// Settings of the session that outrank those of the database and the role.
const OPTIONS: &str = "-c search_path=pg_catalog -c statement_timeout=0 -c lock_timeout=0 \
     -c default_transaction_read_only=off -c client_min_messages=warning";

/// An open connection; closed when dropped.
pub struct Session {
    client: Client,
}

impl Session {
    /// Connects to the database that belongs to the server.
    pub async fn system(socket_dir: &Path) -> Result<Self, PostgresError> {
        Self::connect(socket_dir, SYSTEM_DATABASE).await
    }

    /// Connects to a database of the source.
    pub async fn connect(socket_dir: &Path, database: &str) -> Result<Self, PostgresError> {
        Self::open(socket_dir, database).await.map_err(PostgresError::query("connect to compute"))
    }

    /// Proves that a client's role may log in to a database, by doing so and asking `SELECT 1`.
    pub async fn check_login(
        socket_dir: &Path,
        role: &str,
        database: &str,
    ) -> Result<(), PostgresError> {
        if is_reserved_role(role) && role != OWNER_ROLE {
            return Err(PostgresError::LoginRefused(format!("role \"{role}\" is reserved")));
        }
        let answered = async {
            let (client, connection) = login(socket_dir, role, database).connect(NoTls).await?;
            tokio::spawn(async move { drop(connection.await) });
            client.simple_query("SELECT 1").await.map(drop)
        };
        answered.await.map_err(|error: tokio_postgres::Error| match error.as_db_error() {
            Some(refusal) => PostgresError::LoginRefused(refusal.message().to_owned()),
            None => PostgresError::query("log in to compute")(error),
        })
    }

    /// Runs SQL of an operator's as the owner of the branch, or as a role the owner is a member of.
    /// Never as superuser: the SQL may call code of the source.
    pub async fn run_as(
        socket_dir: &Path,
        database: &str,
        role: Option<&str>,
        sql: &str,
    ) -> Result<(), PostgresError> {
        let ran = async {
            let (client, connection) =
                login(socket_dir, OWNER_ROLE, database).connect(NoTls).await?;
            tokio::spawn(async move { drop(connection.await) });
            if let Some(role) = role {
                let role = format!("\"{}\"", role.replace('"', "\"\""));
                client.batch_execute(&format!("SET ROLE {role}")).await?;
            }
            client.batch_execute(sql).await
        };
        ran.await.map_err(|error: tokio_postgres::Error| match error.as_db_error() {
            Some(refusal) => PostgresError::ScriptFailed(refusal.message().to_owned()),
            None => PostgresError::query("run a script")(error),
        })
    }

    /// Drops extensions where they are, with all that needs them.
    pub async fn drop_extensions(&self, names: &[String]) -> Result<(), PostgresError> {
        for name in names {
            let name = format!("\"{}\"", name.replace('"', "\"\""));
            let sql = format!("DROP EXTENSION IF EXISTS {name} CASCADE");
            let dropped = self.client.batch_execute(&sql).await;
            dropped.map_err(PostgresError::query("drop extension"))?;
        }
        Ok(())
    }

    /// Writes what is only in memory, so that a fork has little to recover, and a shutdown little
    /// to write.
    pub async fn checkpoint(&self) -> Result<(), PostgresError> {
        let done = self.client.batch_execute("CHECKPOINT").await;
        done.map_err(PostgresError::query("checkpoint"))
    }

    /// For statements that this module has no function for.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub(super) async fn open(
        socket_dir: &Path,
        database: &str,
    ) -> Result<Self, tokio_postgres::Error> {
        let mut config = login(socket_dir, SYSTEM_ROLE, database);
        let (client, connection) = config.options(OPTIONS).connect(NoTls).await?;
        // Ends when the client is dropped or the compute goes; either way the next statement of
        // the client reports it, so its own result carries nothing new.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { client })
    }
}

fn login(socket_dir: &Path, role: &str, database: &str) -> Config {
    let mut config = Config::new();
    config.host_path(socket_dir).user(role).dbname(database).application_name("ardent");
    config
}
