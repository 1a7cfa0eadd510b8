use crate::base::ObjectKind;
use crate::manifest::diagnostic::kinds_like;
use crate::manifest::schema as schemas;

use super::super::args::Schema;
use super::super::{Failure, Outcome, render};

/// `unisys schema`: one schema on stdout, or all of them as files.
pub fn run(args: &Schema) -> Result<Outcome, Failure> {
    if let Some(dir) = &args.dir {
        let fail =
            |error: std::io::Error| Failure::other(format!("cannot write to {}: {error}", dir.display()), "");
        std::fs::create_dir_all(dir).map_err(fail)?;
        for (name, text) in schemas::files() {
            std::fs::write(dir.join(name), text).map_err(fail)?;
        }
        return Ok(Outcome::Done);
    }
    let schema = match &args.kind {
        None => schemas::of_any(),
        Some(word) => {
            let kind = ObjectKind::from_word(word).ok_or_else(|| Failure::NotFound {
                message: format!("there is no kind `{word}`"),
                hint: kinds_like(word),
            })?;
            schemas::of_kind(kind)
        }
    };
    render::print(&format!("{schema:#}\n"));
    Ok(Outcome::Done)
}
