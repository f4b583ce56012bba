//! Roles and settings are shared by all databases of a server, and no event trigger sees them: they
//! are read from the source when a heartbeat or barrier says that they changed, and when a replay
//! meets a role that the trunk lacks.

use proxy::client::Session;

use crate::source;

use super::super::applier::Applier;
use super::super::error::{Error, at_source, at_trunk};
use super::super::settings;
use super::super::setup::mirror_roles;

const SOURCE_OPTIONS: &str = "-c statement_timeout=30s -c lock_timeout=10s";

/// Changes with every role, membership and setting. Readable by anyone.
pub(in super::super) const FINGERPRINT_SQL: &str = "\
SELECT pg_catalog.md5(coalesce((SELECT pg_catalog.string_agg(r::text, ' ' ORDER BY r.oid)
                                  FROM pg_catalog.pg_roles r), '')
           || coalesce((SELECT pg_catalog.string_agg(m::text, ' ' ORDER BY m::text)
                          FROM pg_catalog.pg_auth_members m), '')
           || coalesce((SELECT pg_catalog.string_agg(s::text, ' ' ORDER BY s::text)
                          FROM pg_catalog.pg_db_role_setting s), ''))";

impl Applier {
    /// Makes the trunk's roles those of the source as of now. Commits by itself: a role too early
    /// harms nobody.
    pub(in super::super) async fn refresh_roles(&mut self) -> Result<(), Error> {
        let target = self.replay.link.source_target(SOURCE_OPTIONS);
        let session = Session::open(&target).await.map_err(at_source)?;
        let facts = source::read_facts(&session).await;
        session.close().await;
        let facts = facts?;
        let wanted = settings::read(&self.replay.link).await?;
        let trunk = &self.replay.trunk;
        let system = Session::open(&trunk.as_system(&trunk.database)).await.map_err(at_trunk)?;
        let outcome = async {
            let mut warnings = mirror_roles(&system, &facts).await?;
            warnings.extend(settings::mirror(&system, &trunk.database, &wanted).await?);
            Ok::<_, Error>(warnings)
        };
        let outcome = outcome.await;
        system.close().await;
        // Taking a lock makes the session hear of roles that it had found missing.
        self.session
            .query("SELECT FROM pg_catalog.pg_roles LIMIT 1", &[])
            .await
            .map_err(at_trunk)?;
        for warning in outcome? {
            self.warn(warning);
        }
        Ok(())
    }
}
