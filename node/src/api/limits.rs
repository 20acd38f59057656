//! `limits`: how fast this node sends and fetches.

use super::{
    Api,
    types::{ApiError, ErrorKind, LimitsInfo, LimitsRequest},
};
use crate::core::rate::{Limit, Limits};

impl Api {
    /// The limits now; those of the configuration without a network.
    pub fn limits(&self) -> LimitsInfo {
        let limits = match &self.inner.net {
            Some(net) => net.client.rates().limits(),
            None => self.inner.config.limits(),
        };
        info(&limits)
    }

    /// Changes limits of the running node, at once and for what runs as well. They are not kept: the next start takes
    /// those of the configuration.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if one is no rate, [`ErrorKind::Failed`] without a network; then all stay as they were.
    pub fn set_limits(&self, request: &LimitsRequest) -> Result<LimitsInfo, ApiError> {
        let (up, down) = (parse(request.up.as_deref())?, parse(request.down.as_deref())?);
        let up_per_peer = parse(request.up_per_peer.as_deref())?;
        let limits = self.network()?.client.rates().change(|limits| {
            limits.up = up.unwrap_or(limits.up);
            limits.down = down.unwrap_or(limits.down);
            limits.up_per_peer = up_per_peer.unwrap_or(limits.up_per_peer);
        });
        tracing::info!(up = %limits.up, down = %limits.down, up_per_peer = %limits.up_per_peer, "new limits");
        Ok(info(&limits))
    }
}

fn parse(limit: Option<&str>) -> Result<Option<Limit>, ApiError> {
    let parsed = limit.map(str::parse).transpose();
    parsed.map_err(|error: crate::core::rate::BadLimit| ApiError::new(ErrorKind::Usage, error.to_string()))
}

fn info(limits: &Limits) -> LimitsInfo {
    LimitsInfo { up: limits.up, down: limits.down, up_per_peer: limits.up_per_peer, lan: limits.lan }
}
