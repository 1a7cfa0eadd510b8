use crate::manifest::explain;

use super::super::{Failure, Outcome, render};

/// `unisys explain`: a field or a code.
pub fn run(what: &str) -> Result<Outcome, Failure> {
    match explain::explain(what) {
        Ok(text) => {
            render::print(&format!("{}\n", text.trim_end()));
            Ok(Outcome::Done)
        }
        Err(why) => Err(Failure::NotFound { message: why, hint: "try `unisys explain service.spec`".into() }),
    }
}
