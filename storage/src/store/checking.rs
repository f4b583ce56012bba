//! The consistency check of an open store: one layer or branch at a time, between other work.

use super::Store;
use crate::check::{check_branch, check_layer, check_shape, subjects};
use crate::error::Error;
use crate::holdings::Holdings;
use crate::wire::Finding;

impl Store {
    /// Everything that is not as it must be.
    pub(crate) fn check(&self) -> Result<Vec<Finding>, Error> {
        let mut findings = self.in_pause(check_shape)?;
        let subjects = subjects(&self.holdings).ok_or_else(super::broken)?;
        for layer in subjects.0 {
            findings.extend(self.in_pause(move |holdings| check_layer(holdings, layer))?);
        }
        for branch in subjects.1 {
            findings.extend(self.in_pause(move |holdings| check_branch(holdings, branch))?);
        }
        Ok(findings)
    }

    fn in_pause(
        &self,
        look: impl FnOnce(&Holdings) -> Vec<Finding> + Send + 'static,
    ) -> Result<Vec<Finding>, Error> {
        let holdings = self.holdings.clone();
        self.keeper.paused(move || look(&holdings)).ok_or(Error::Stopping)
    }
}
