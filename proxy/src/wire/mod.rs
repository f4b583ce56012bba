//! Messages of the Postgres protocol that this side of the wire reads or writes.
//!
//! Must never: panic on input, or slice by a length that came from outside.

mod backend;
mod skim;
mod startup;

pub(crate) use backend::{
    auth_ok, auth_sasl, auth_sasl_continue, auth_sasl_final, backend_key_data, cancel_request,
    negotiate_version, notice, parameter_status, ready_for_query, refusal, startup,
};
pub(crate) use skim::{Skimmer, TransactionStatus};
pub(crate) use startup::{FirstPacket, Parameters, STARTUP_BYTES_MAX, StartupPacket};

/// SSLRequest, CancelRequest and GSSENCRequest take the place of a version with these numbers.
pub(crate) const CANCEL_REQUEST: u32 = 80_877_102;
pub(crate) const SSL_REQUEST: u32 = 80_877_103;
pub(crate) const GSSENC_REQUEST: u32 = 80_877_104;
