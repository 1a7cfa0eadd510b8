//! Verbs of kubectl, systemctl, docker and others that are called otherwise here.

/// What to write in place of a verb that there is not.
pub fn meant(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "status" | "list" | "ls" | "ps" => {
            "`unisys get` lists units; `unisys describe NAME` and `unisys why NAME` tell of one"
        }
        "show" | "inspect" | "info" => "`unisys describe NAME`",
        "undo" | "rollback" => {
            "`unisys rollout undo NAME`, or to a revision: `unisys rollout undo NAME --to-revision N`"
        }
        "history" => "`unisys rollout history NAME`, or `unisys changes`",
        "pause" => "`unisys rollout pause NAME`; a unit is stopped by `unisys stop NAME`",
        "resume" | "unpause" => "`unisys rollout resume NAME`",
        "promote" => "`unisys rollout promote NAME`",
        "run" => {
            "`unisys restart JOB` runs a Job again; `unisys exec NAME -- CMD` runs a command beside a unit"
        }
        "log" | "tail" | "journal" | "journalctl" => "`unisys logs NAME`, with -f to follow",
        "rm" | "remove" => "`unisys delete NAME`",
        "kill" => "`unisys stop NAME`, which kills what does not stop in its time; `unisys restart NAME`",
        "create" | "add" | "deploy" => "`unisys apply -f PATH`",
        "check" | "lint" | "verify" => "`unisys validate PATH`",
        "shutdown" | "quit" | "exit" => "`unisys down`",
        "reread" | "update" | "daemon-reload" => {
            "saved manifests are followed by themselves; `unisys apply -f PATH` takes them at once"
        }
        "reset" | "reset-failed" => "`unisys circuit reset NAME`",
        "top" | "stats" => "`unisys get -o wide`, `unisys metrics`",
        "init" => "write a manifest: `unisys explain service` shows its fields",
        "help" => "`unisys --help`, `unisys VERB --help`",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::args::Cli;
    use super::*;

    #[test]
    fn no_verb_that_there_is_is_told_otherwise_and_what_is_told_is_one() {
        let cli = Cli::command();
        let verbs: Vec<&str> = cli.get_subcommands().map(|verb| verb.get_name()).collect();
        assert!(verbs.iter().all(|verb| meant(verb).is_none()), "{verbs:?}");
        for word in ["status", "list", "undo", "history", "pause", "run", "rm", "top", "reset", "log"] {
            let hint = meant(word).unwrap();
            let named = hint.split("unisys ").skip(1).map(|rest| rest.split([' ', '`']).next().unwrap());
            named.for_each(|verb| assert!(verbs.contains(&verb), "{word}: {verb}"));
        }
        assert_eq!(meant("statsu"), None);
    }
}
