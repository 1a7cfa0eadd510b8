use super::*;
use crate::base::{Incarnation, Transport};

fn id(incarnation: u64) -> InstanceId {
    InstanceId { unit: "a".parse().unwrap(), ordinal: Ordinal(0), incarnation: Incarnation(incarnation) }
}

fn listen(port: u16) -> Listen {
    let transport = Transport::Tcp;
    Listen {
        unit: id(0).unit,
        name: "http".parse().unwrap(),
        address: "127.0.0.1".into(),
        port,
        transport,
        backlog: None,
        reuse_port: false,
    }
}

fn provide(listeners: &mut Listeners, need: PortNeed) -> Provided {
    listeners.provide(&id(1), Role::Serving, &[need], None, &BTreeSet::new()).ok().unwrap()
}

#[test]
fn a_listener_is_bound_once_and_closed_when_nobody_wants_it() {
    let free = sockets::number(sockets::bind(&listen(0), None).unwrap());
    let mut listeners = Listeners::default();
    let first = provide(&mut listeners, PortNeed::Shared(listen(free)));
    let second = provide(&mut listeners, PortNeed::Shared(listen(free)));
    assert_eq!((first.opened.len(), second.opened.len()), (1, 0));
    assert_eq!(sockets::inode(&first.handed[0].1), sockets::inode(&second.handed[0].1));
    let wanted = listen(free);
    assert!(listeners.close_unwanted(&BTreeSet::new()).is_empty(), "no daemon has said anything");
    listeners.want(vec![wanted.clone()], &[]);
    assert!(listeners.close_unwanted(&BTreeSet::new()).is_empty());
    listeners.want(Vec::new(), &[]);
    assert!(listeners.close_unwanted(&BTreeSet::from([&wanted])).is_empty(), "an instance has it");
    assert_eq!(listeners.close_unwanted(&BTreeSet::new()).len(), 1);
    drop((first, second));
    std::net::TcpListener::bind(("127.0.0.1", free)).unwrap();
}

#[test]
fn a_renamed_port_keeps_its_socket() {
    let free = sockets::number(sockets::bind(&listen(0), None).unwrap());
    let mut listeners = Listeners::default();
    let first = provide(&mut listeners, PortNeed::Shared(listen(free)));
    let renamed = Listen { name: "web".parse().unwrap(), ..listen(free) };
    let second = provide(&mut listeners, PortNeed::Shared(renamed.clone()));
    assert_eq!(sockets::inode(&first.handed[0].1), sockets::inode(&second.handed[0].1));
    assert_eq!(second.handed[0].0, "web");
    listeners.want(vec![renamed], &[]);
    assert_eq!(listeners.close_unwanted(&BTreeSet::new()).len(), 1);
}

#[test]
fn private_listeners_get_numbers_of_their_own() {
    let mut listeners = Listeners::default();
    let a = provide(&mut listeners, PortNeed::Private(listen(0)));
    let b = provide(&mut listeners, PortNeed::Number(listen(0)));
    assert_eq!((a.handed.len(), b.handed.len()), (1, 0));
    assert_ne!(a.numbers.get("http"), b.numbers.get("http"));
    assert_eq!(listeners.entries().count(), 0);
}

#[test]
fn a_new_keeper_takes_the_listener_from_a_process_that_holds_it() {
    let mut old = Listeners::default();
    let held = provide(
        &mut old,
        PortNeed::Shared(listen(sockets::number(sockets::bind(&listen(0), None).unwrap()))),
    );
    let inode = sockets::inode(&held.handed[0].1);
    let entries: Vec<Entry> = old.entries().collect();
    drop(old);
    let mut new = Listeners::default();
    new.take_over(&entries, None, &|_| vec![std::process::id()]);
    assert!(matches!(new.entries().next(), Some(Entry::Listening { inode: found, .. }) if found == inode));
}

#[test]
fn stored_descriptors_are_capped_kept_once_and_handed_to_the_next_instance() {
    let mut listeners = Listeners::default();
    let file = || std::fs::File::open("/dev/null").unwrap().into();
    listeners.store(&id(1), Role::Serving, "x", file()).unwrap();
    listeners.store(&id(1), Role::Serving, "x", file()).unwrap();
    for index in 1..limits::STORED_DESCRIPTORS {
        listeners.store(&id(1), Role::Serving, &format!("y{index}"), file()).unwrap();
    }
    assert!(listeners.store(&id(1), Role::Serving, "z", file()).is_err());
    let given = listeners.provide(&id(2), Role::Serving, &[], None, &BTreeSet::new()).ok().unwrap();
    assert_eq!((given.handed.len(), given.handed[0].0.as_str()), (limits::STORED_DESCRIPTORS, "x"));
    listeners.unstore(&id(2), Role::Serving, "x");
    assert_eq!(
        listeners.provide(&id(2), Role::Serving, &[], None, &BTreeSet::new()).ok().unwrap().handed[0].0,
        "y1"
    );
    listeners.want(Vec::new(), &[]);
    assert!(
        listeners.provide(&id(2), Role::Serving, &[], None, &BTreeSet::new()).ok().unwrap().handed.is_empty()
    );
}

#[test]
fn an_incoming_instance_has_copies_of_its_own_until_it_takes_the_place_or_goes() {
    let mut listeners = Listeners::default();
    let file = || std::fs::File::open("/dev/null").unwrap().into();
    let names = |listeners: &mut Listeners, role| {
        let given = listeners.provide(&id(2), role, &[], None, &BTreeSet::new()).ok().unwrap();
        given.handed.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
    };
    listeners.store(&id(1), Role::Serving, "old", file()).unwrap();
    assert_eq!(names(&mut listeners, Role::Incoming), "old");
    listeners.store(&id(2), Role::Incoming, "new", file()).unwrap();
    assert_eq!(names(&mut listeners, Role::Serving), "old", "it did not take the place");
    listeners.give_up(&id(2));
    assert_eq!(names(&mut listeners, Role::Incoming), "old", "another try begins as the first did");
    listeners.unstore(&id(2), Role::Incoming, "old");
    listeners.store(&id(2), Role::Incoming, "new", file()).unwrap();
    listeners.take_place(&id(2));
    assert!(listeners.store(&id(1), Role::Draining, "late", file()).is_err());
    assert_eq!(names(&mut listeners, Role::Serving), "new");
}
