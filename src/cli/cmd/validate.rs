use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::base::ports::Place;
use crate::base::{Revision, limits};
use crate::manifest::diagnostic::Span;
use crate::manifest::load::ParseCache;
use crate::manifest::resolve::Context;
use crate::manifest::{Diagnostic, LoadInput, Objects, SourceFile, load, render as shapes};
use crate::os::files::{self, Disk, ThisMachine};
use crate::os::listeners;
use crate::os::snapshot::snapshot;
use crate::plan::build::{Built, build};
use crate::plan::machine::{Machine, fixed_places};

use super::super::args::{Format, Global, Validate};
use super::super::{Failure, Outcome, kept, render};
use crate::cli::aside;

/// `unisys validate`: everything that is wrong, at once; executes nothing.
pub fn run(global: &Global, args: &Validate) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Json, Format::Sarif, Format::Github])?;
    let (diagnostics, count) = check(args)?;
    let valid = shapes::is_valid(&diagnostics);
    match global.output {
        Some(Format::Json) => render::print(&format!("{:#}\n", shapes::json(&diagnostics))),
        Some(Format::Sarif) => render::print(&format!("{:#}\n", shapes::sarif(&diagnostics))),
        Some(Format::Github) => render::print(&shapes::github(&diagnostics)),
        _ => {
            let source = |file: &str| {
                let bytes = files::read_bounded(Path::new(file), limits::MANIFEST_FILE_BYTES).ok()?;
                String::from_utf8(bytes).ok()
            };
            render::to_stderr(&shapes::text(&diagnostics, render::colour_on_stderr(), &source));
            let errors =
                diagnostics.iter().filter(|d| d.severity == crate::manifest::Severity::Error).count();
            match (valid, global.quiet) {
                (true, false) => {
                    render::line(format_args!("valid: {count} object{}", if count == 1 { "" } else { "s" }))
                }
                (false, false) => aside!("invalid: {errors} error{}", if errors == 1 { "" } else { "s" }),
                _ => {}
            }
        }
    }
    Ok(if valid { Outcome::Done } else { Outcome::No })
}

fn check(args: &Validate) -> Result<(Vec<Diagnostic>, usize), Failure> {
    let mut diagnostics = Vec::new();
    let mut parts = Vec::new();
    let mut overlays = Vec::new();
    for path in &args.overlay {
        overlays.push(read(path)?);
    }
    for path in args.paths.iter().chain(&args.file) {
        let set = crate::engine::sets::set_name(path);
        let input = LoadInput { set, files: read(path)?, overlays: overlays.clone() };
        let (objects, found) = load(&input, &mut ParseCache::default());
        if objects.sources().is_empty() && found.is_empty() {
            diagnostics.push(nothing_in(path));
        }
        parts.push(objects);
        diagnostics.extend(found);
    }
    let objects = Objects::join(parts, &mut diagnostics);
    let built = build_of(&objects, args.machine);
    diagnostics.extend(built.diagnostics);
    diagnostics.truncate(limits::DIAGNOSTICS);
    Ok((diagnostics, objects.sources().len()))
}

/// What writes the manifests may have failed, or others be meant: that nothing is wrong with nothing helps nobody.
fn nothing_in(path: &Path) -> Diagnostic {
    let (file, what, hint) = match path == Path::new("-") {
        true => (
            Path::new("stdin.yaml"),
            "standard input holds no manifest",
            "what writes them may have failed (`set -o pipefail` tells a shell to say so)",
        ),
        false => (
            path,
            "there is no manifest in it",
            "manifests end in .yaml, .yml or .json; name their directory or file",
        ),
    };
    let span = Span { file: file.to_owned(), line: 0, column: 0, ..Span::default() };
    Diagnostic::error("E1010", &span, "", what).hint(hint)
}

/// `machine`: what only this machine has is looked at too.
fn build_of(objects: &Objects, machine: bool) -> Built {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let context =
        Context { objects, files: &Disk, environment: &environment, profile: None, machine, lenient: false };
    let machine = machine.then(|| ThisMachine::new(holders(objects)));
    let machine = machine.as_ref().map(|machine| machine as &dyn Machine);
    build(&context, Revision(0), b"", machine)
}

/// Every holder of a wanted port, a running system's own processes left out.
fn holders(objects: &Objects) -> BTreeMap<Place, String> {
    let (state_id, keeper, mut own) = kept::ours();
    own.extend(keeper);
    listeners::foreign_holders(&fixed_places(objects), &state_id, &own)
}

fn read(path: &Path) -> Result<Vec<SourceFile>, Failure> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        let result = std::io::stdin().take(limits::MANIFEST_FILE_BYTES + 1).read_to_end(&mut bytes);
        result.map_err(|error| {
            Failure::usage(format!("cannot read standard input: {}", files::why(&error)), "")
        })?;
        return Ok(vec![SourceFile { path: "stdin.yaml".into(), content: Ok(bytes.into()) }]);
    }
    let found = snapshot(path).map_err(|error| {
        Failure::usage(
            format!("cannot read {}: {}", path.display(), files::why(&error)),
            "name a directory, a file or -",
        )
    })?;
    Ok(found.files)
}
