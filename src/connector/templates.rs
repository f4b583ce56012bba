//! The data directory that the next trunk begins with, made before anybody asks for one: `initdb`
//! takes a second, which is much of what the first copy of a small source takes.
//!
//! A server that has no connector yet makes one when it starts; a setup that finds none, or one of
//! another major, makes its own.
//!
//! Must never: be needed. Bounds: one, some 40 MB, removed when the server stops; what a killed one
//! leaves, the next start removes.

use std::io;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::ConnectorServices;
use crate::cause::Causes;
use crate::data_dir::DataDir;
use crate::postgres::{Installation, PostgresError, Template, TemplateSpec};

const PREFIX: &str = "template-";

/// The place for one.
#[derive(Debug, Default)]
pub struct Templates(Mutex<Option<Template>>);

impl Templates {
    /// The one that is ready or being made, or a new one.
    pub(super) async fn take(
        &self,
        services: &ConnectorServices,
        installation: &Installation,
    ) -> Result<Template, PostgresError> {
        let ready = self.0.lock().await.take_if(|ready| ready.installation() == installation);
        match ready {
            Some(ready) => Ok(ready),
            None => Template::make(spec(services, installation)).await,
        }
    }

    async fn fill(&self, spec: TemplateSpec) -> Result<(), PostgresError> {
        let mut place = self.0.lock().await;
        *place = Some(Template::make(spec).await?);
        Ok(())
    }
}

/// Makes one in the background, of the newest major.
pub(super) fn prepare(services: Arc<ConnectorServices>) {
    tokio::spawn(async move {
        let Some(newest) = services.computes.places().installations.iter().max_by_key(|i| i.major)
        else {
            return;
        };
        match services.templates.fill(spec(&services, newest)).await {
            Ok(()) => tracing::info!(major = newest.major, "data directory of a trunk is ready"),
            Err(error) => {
                tracing::debug!(error = %Causes(&error), "a trunk's directory is made when needed");
            }
        }
    });
}

/// Removes what a server that was killed left. An `initdb` that outlived it may still write: then
/// the next start is soon enough.
pub(super) fn remove_left(data_dir: &DataDir) -> io::Result<()> {
    for entry in std::fs::read_dir(data_dir.run())? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
    Ok(())
}

fn spec(services: &ConnectorServices, installation: &Installation) -> TemplateSpec {
    let name = format!("{PREFIX}{:016x}", rand::random::<u64>());
    TemplateSpec {
        installation: installation.clone(),
        scratch_dir: services.data_dir.run().join(name),
        user: services.config.compute.user.clone(),
    }
}
