use super::super::args::Global;
use super::super::client::Client;
use super::super::{Failure, Outcome, render};

/// `unisys metrics`: the daemon's figures as it exports them.
pub fn run(global: &Global) -> Result<Outcome, Failure> {
    render::print(&Client::connect(global)?.text("/metrics")?);
    Ok(Outcome::Done)
}
