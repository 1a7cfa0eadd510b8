use super::*;

fn id() -> InstanceId {
    "api.0.5".parse().unwrap()
}

/// What the kernel makes in a new cgroup, as plain files.
fn fill(dir: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(dir).unwrap();
    for (name, text) in files {
        fs::write(dir.join(name), text).unwrap();
    }
}

const LIMIT_FILES: [(&str, &str); 5] = [
    ("memory.high", "max"),
    ("memory.max", "max"),
    ("memory.oom.group", "0"),
    ("cpu.max", ""),
    ("pids.max", ""),
];

#[test]
fn the_own_cgroup_is_found_through_the_mount_and_the_path() {
    let v2 = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
    let hybrid = "33 25 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n42 25 0:39 / /sys/fs/cgroup/unified rw - cgroup2 none rw";
    let bound = "30 25 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw";
    for (mounts, cgroup, expected) in [
        (v2, "0::/user.slice/app.scope\n", Some("/sys/fs/cgroup/user.slice/app.scope")),
        (v2, "0::/\n", Some("/sys/fs/cgroup/")),
        (hybrid, "4:cpu:/x\n0::/a\n", Some("/sys/fs/cgroup/unified/a")),
        (bound, "0::/docker/abc/b\n", Some("/sys/fs/cgroup/b")),
        (bound, "0::/elsewhere\n", None),
        ("33 25 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", "4:cpu:/x\n", None),
    ] {
        assert_eq!(own_dir(mounts, cgroup).as_deref(), expected.map(Path::new), "{mounts} {cgroup}");
    }
}

#[test]
fn a_delegated_cgroup_becomes_a_tree_with_a_leaf_for_unisys() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("unisys.service");
    let refused = Tree::claim_in(&own, "s1", 77).unwrap_err();
    assert!(refused.contains("root of the machine's cgroups"), "{refused}");
    fill(
        &own,
        &[
            ("cgroup.events", "populated 1"),
            ("cgroup.procs", "77"),
            ("cgroup.controllers", "cpu memory io pids"),
            ("cgroup.subtree_control", ""),
        ],
    );
    let base = own.join("unisys-s1");
    fill(&base, &[("cgroup.controllers", "cpu memory pids"), ("cgroup.subtree_control", "")]);
    fill(&base.join("supervisor"), &[("cgroup.procs", "")]);
    let tree = Tree::claim_in(&own, "s1", 77).unwrap();
    assert_eq!(fs::read_to_string(base.join("supervisor/cgroup.procs")).unwrap(), "77");
    assert!(fs::read_to_string(own.join("cgroup.subtree_control")).unwrap().contains("+pids"));
    // The next image of the keeper, already in the leaf, comes to the same tree; another system's does not.
    assert_eq!(Tree::claim_in(&base.join("supervisor"), "s1", 78).unwrap().base, tree.base);
    assert!(Tree::claim_in(&base.join("supervisor"), "s2", 78).is_err());
    fs::write(base.join("cgroup.subtree_control"), "cpu pids").unwrap();
    let offer = tree.offer();
    assert_eq!(offer.controllers, ["cpu", "pids"]);
    assert!(offer.lacking.contains("does not have: memory"), "{}", offer.lacking);
}

#[test]
fn limits_are_written_as_the_kernel_reads_them_and_lifted_again() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree { base: dir.path().to_owned() };
    let cgroup = tree.dir(&id());
    fill(&cgroup, &LIMIT_FILES);
    let limits = CgroupLimits {
        memory_max: Some(512 << 20),
        memory_high: Some(400 << 20),
        cpu_max: Some(1.5),
        pids_max: Some(64),
    };
    tree.limit(&id(), &limits).unwrap();
    let read = |name: &str| fs::read_to_string(cgroup.join(name)).unwrap();
    // A plain file keeps the longer text's end; the kernel does not.
    assert!(read("memory.max").starts_with("536870912"));
    assert_eq!(
        (read("cpu.max"), read("pids.max"), read("memory.oom.group")),
        ("150000 100000".into(), "64".into(), "1".into())
    );
    fill(&cgroup, &LIMIT_FILES);
    tree.limit(&id(), &CgroupLimits::default()).unwrap();
    assert_eq!(
        (read("memory.max"), read("cpu.max"), read("memory.oom.group")),
        ("max".into(), "max 100000".into(), "0".into())
    );
    assert!(tree.may_kill_a_part(&id()));
    // Without the controllers there are no such files; none is made.
    let bare: InstanceId = "api.0.6".parse().unwrap();
    fs::create_dir(tree.dir(&bare)).unwrap();
    tree.limit(&bare, &limits).unwrap();
    assert_eq!(fs::read_dir(tree.dir(&bare)).unwrap().count(), 0);
}

#[test]
fn whoever_leaves_takes_back_the_controllers_that_nobody_else_has() {
    for (others, expected) in [(false, "-pids"), (true, "+pids")] {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree { base: dir.path().join("unisys-s1") };
        fill(dir.path(), &[("cgroup.subtree_control", "+pids"), ("cgroup.procs", "")]);
        fs::create_dir_all(tree.base.join(SUPERVISOR)).unwrap();
        if others {
            fs::create_dir(dir.path().join("unisys-s2")).unwrap();
        }
        tree.leave(77);
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.procs")).unwrap(), "77");
        // A plain file keeps the longer text's end.
        assert!(words(&dir.path().join("cgroup.subtree_control"))[0].starts_with(expected));
        assert!(!tree.base.exists());
    }
}

#[test]
fn kills_for_want_of_memory_are_counted_and_what_is_unknown_is_cleaned() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree { base: dir.path().to_owned() };
    assert_eq!(tree.oom_kills(&id()), 0);
    fill(
        &tree.dir(&id()),
        &[
            ("memory.events", "low 0\nhigh 3\nmax 9\noom 1\noom_kill 2\noom_group_kill 1\n"),
            ("cgroup.procs", "5\n6\n"),
        ],
    );
    fill(&tree.dir(&id()).join("own"), &[("cgroup.procs", "7\n")]);
    assert_eq!(tree.oom_kills(&id()), 2);
    assert_eq!(tree.processes(&id()), [5, 6, 7]);
    fs::create_dir(dir.path().join("web.1.2")).unwrap();
    fs::create_dir(dir.path().join("not-ours")).unwrap();
    tree.clean(|known| *known == id());
    assert!(!dir.path().join("web.1.2").exists() && dir.path().join("not-ours").exists());
}

#[test]
fn what_a_cgroup_used_is_read_as_far_as_it_tells() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree { base: dir.path().to_owned() };
    assert_eq!(tree.usage(&id()), None);
    let cpu = ("cpu.stat", "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500999\n");
    fill(&tree.dir(&id()), &[cpu]);
    let bare = CgroupUsage { user_cpu_ms: Some(2000), system_cpu_ms: Some(500), ..Default::default() };
    assert_eq!(tree.usage(&id()), Some(bare.clone()), "no controller, no pressure");
    fill(
        &tree.dir(&id()),
        &[
            ("cpu.stat", "user_usec 2000000\nsystem_usec 500999\nnr_throttled 7\nthrottled_usec 30000\n"),
            ("memory.peak", "104857600\n"),
            ("memory.events", "low 0\nhigh 3\nmax 9\noom 1\noom_kill 2\n"),
            ("pids.peak", "12\n"),
            (
                "memory.pressure",
                "some avg10=80.00 avg60=20.10 avg300=4.00 total=9000000\nfull avg10=7.00 avg60=1.00 avg300=0.20 total=500000\n",
            ),
            ("io.pressure", "garbage\n"),
        ],
    );
    let usage = tree.usage(&id()).unwrap();
    let memory = usage.pressure.memory.clone().unwrap();
    assert_eq!(memory.some.map(|some| (some.avg10, some.total_ms)), Some((80.0, 9000)));
    assert_eq!(memory.full.map(|full| (full.avg300, full.total_ms)), Some((0.2, 500)));
    assert_eq!((&usage.pressure.cpu, &usage.pressure.io), (&None, &None));
    let expected = CgroupUsage {
        peak_memory_bytes: Some(100 << 20),
        memory_high_events: Some(3),
        memory_max_events: Some(9),
        oom_kills: Some(2),
        peak_pids: Some(12),
        throttled_ms: Some(30),
        pressure: usage.pressure.clone(),
        ..bare
    };
    assert_eq!(usage, expected);
}

#[test]
fn a_tree_that_was_removed_is_made_again_or_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree { base: dir.path().join("own/gone") };
    fill(&dir.path().join("own"), &[("cgroup.controllers", "pids"), ("cgroup.subtree_control", "")]);
    assert!(tree.create(&id(), &CgroupLimits::default()).is_ok() && tree.dir(&id()).is_dir());
    assert!(words(&dir.path().join("own/cgroup.subtree_control")).contains(&"+pids".to_owned()));
    fs::remove_dir_all(dir.path().join("own")).unwrap();
    let error = tree.create(&id(), &CgroupLimits::default()).unwrap_err();
    assert!(error.to_string().ends_with("gone was removed"), "{error}");
    assert!(!tree.kill(&id()) && tree.processes(&id()).is_empty());
}
