//! What may be done next with the ordinals of a unit of which some are of an old version.

use crate::base::Ordinal;
use crate::unit::{Strategy, UpdatePolicy};

/// How well the instance in a seat is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing of it is alive.
    Gone,
    /// Alive, and not Ready: starting or unwell.
    Unready,
    /// On its way out.
    Stopping,
    Ready,
    /// Ready for `minReady`.
    Available,
}

/// One seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// It was started with another version than the wanted one, or a restart of it is asked for.
    pub old: bool,
    pub standing: Standing,
}

impl Place {
    fn is_alive(self) -> bool {
        self.standing != Standing::Gone
    }

    /// An old one that is Ready has been available since long before.
    fn is_available(self) -> bool {
        self.standing == Standing::Available || (self.old && self.standing == Standing::Ready)
    }
}

/// The seats of one ordinal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub ordinal: Ordinal,
    pub serving: Option<Place>,
    pub incoming: Option<Place>,
    /// An earlier one is still on its way out.
    pub draining: bool,
}

/// All that the moves depend on.
#[derive(Clone, Debug)]
pub struct View<'a> {
    pub update: &'a UpdatePolicy,
    /// An old and a new instance can run beside each other.
    pub overlap: bool,
    pub replicas: u32,
    pub paused: bool,
    /// The canaries were found well.
    pub promoted: bool,
    pub groups: Vec<Group>,
}

/// One thing that may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Start an incoming instance beside the serving one.
    BringUp(Ordinal),
    /// The incoming instance takes the place of the serving one, which drains.
    TakeOver(Ordinal),
    /// The serving instance stops, then a new one starts in its place.
    StopFirst(Ordinal),
}

impl Move {
    pub fn ordinal(self) -> Ordinal {
        match self {
            Self::BringUp(ordinal) | Self::TakeOver(ordinal) | Self::StopFirst(ordinal) => ordinal,
        }
    }
}

/// The moves that are allowed now, all of them together.
pub fn moves(view: &View<'_>) -> Vec<Move> {
    if view.paused {
        return Vec::new();
    }
    let mut moves = take_overs(view);
    moves.extend(nothing_to_lose(view));
    match view.update.strategy {
        Strategy::Recreate => moves.extend(old_ones(view).map(|group| Move::StopFirst(group.ordinal))),
        _ if !view.overlap => moves.extend(stop_first(view, view.update.max_unavailable.max(1))),
        Strategy::Rolling if view.update.max_surge == 0 => {
            moves.extend(stop_first(view, view.update.max_unavailable.max(1)));
        }
        _ => {
            let brought = bring_ups(view);
            // Blue and green change together: nothing of the old version goes before all of the new one is there.
            let one_by_one = view.update.strategy != Strategy::BlueGreen;
            if view.update.max_unavailable > 0 && view.promoted && one_by_one {
                let stops = stop_first(view, view.update.max_unavailable);
                moves.extend(
                    stops.into_iter().filter(|stop| !brought.iter().any(|up| up.ordinal() == stop.ordinal())),
                );
            }
            moves.extend(brought);
        }
    }
    moves
}

/// Serving ones of the old version that are well and have no successor yet.
fn old_ones<'a>(view: &'a View<'_>) -> impl Iterator<Item = &'a Group> {
    view.groups.iter().filter(|group| {
        let old = group.serving.is_some_and(|place| place.old && place.standing >= Standing::Ready);
        old && group.incoming.is_none() && !group.draining
    })
}

/// An old instance that is not Ready has nothing to lose; but before it is promoted only canaries are of the new version.
fn nothing_to_lose<'a>(view: &'a View<'_>) -> impl Iterator<Item = Move> + 'a {
    let among = match view.update.strategy {
        Strategy::Canary(canary) if !view.promoted => canary.count(view.replicas),
        _ => view.replicas,
    };
    let unready = move |group: &&Group| {
        group.ordinal.0 < among
            && group.incoming.is_none()
            && group.serving.is_some_and(|place| place.old && place.standing == Standing::Unready)
    };
    view.groups.iter().filter(unready).map(|group| Move::StopFirst(group.ordinal))
}

fn take_overs(view: &View<'_>) -> Vec<Move> {
    let ready_to = |group: &&Group| {
        let Some(incoming) = group.incoming.filter(|place| !place.old) else { return false };
        match group.serving {
            // Nobody is in its place.
            None => incoming.standing >= Standing::Ready,
            Some(place) if !place.is_alive() => incoming.standing >= Standing::Ready,
            Some(_) => incoming.standing == Standing::Available,
        }
    };
    let held_back = match view.update.strategy {
        Strategy::Canary(_) => !view.promoted,
        // Together or not at all.
        Strategy::BlueGreen => view.groups.iter().any(|group| {
            group.serving.is_some_and(|place| place.old && place.is_alive()) && !ready_to(&group)
        }),
        Strategy::Rolling | Strategy::Recreate => false,
    };
    let unheld = |group: &&Group| !held_back || group.serving.is_none_or(|place| !place.is_alive());
    view.groups.iter().filter(ready_to).filter(unheld).map(|group| Move::TakeOver(group.ordinal)).collect()
}

fn bring_ups(view: &View<'_>) -> Vec<Move> {
    // A serving seat is always somebody's, and an incoming one between two tries as well.
    let live: u32 = view
        .groups
        .iter()
        .map(|group| 1 + u32::from(group.incoming.is_some()) + u32::from(group.draining))
        .sum();
    let (limit, among) = match view.update.strategy {
        Strategy::BlueGreen => (view.replicas.saturating_mul(2), view.replicas),
        Strategy::Canary(canary) if !view.promoted => {
            let count = canary.count(view.replicas);
            (view.replicas + count, count)
        }
        _ => (view.replicas.saturating_add(view.update.max_surge.max(1)), view.replicas),
    };
    let room = limit.saturating_sub(live) as usize;
    old_ones(view)
        .filter(|group| group.ordinal.0 < among)
        .take(room)
        .map(|group| Move::BringUp(group.ordinal))
        .collect()
}

/// Old ones that may be missing for a while: the rest stays available.
fn stop_first(view: &View<'_>, max_unavailable: u32) -> Vec<Move> {
    let up = |place: Option<Place>| place.is_some_and(Place::is_available);
    let available = view.groups.iter().filter(|group| up(group.serving) || up(group.incoming)).count() as u32;
    let needed = view.replicas.saturating_sub(max_unavailable);
    let room = available.saturating_sub(needed) as usize;
    old_ones(view).take(room).map(|group| Move::StopFirst(group.ordinal)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{CanaryPolicy, CanaryShare, Policy};
    use std::time::Duration;

    /// `a` old available, `r` old ready, `u` old unready, `s` stopping, `.` gone, capitals: new. `A+u`: serving+incoming.
    fn place(letter: char) -> Option<Place> {
        let standing = match letter.to_ascii_lowercase() {
            'a' => Standing::Available,
            'r' => Standing::Ready,
            'u' => Standing::Unready,
            's' => Standing::Stopping,
            '.' => Standing::Gone,
            _ => return None,
        };
        Some(Place { old: letter.is_ascii_lowercase(), standing })
    }

    fn run(update: &UpdatePolicy, overlap: bool, promoted: bool, seats: &str) -> String {
        let groups: Vec<Group> = seats
            .split_whitespace()
            .enumerate()
            .map(|(index, text)| {
                let mut letters = text.chars().filter(|letter| *letter != '+');
                let serving = letters.next().and_then(place);
                let incoming = letters.next().and_then(place);
                let draining = letters.next() == Some('d');
                Group { ordinal: Ordinal(index as u32), serving, incoming, draining }
            })
            .collect();
        let replicas = groups.len() as u32;
        let view = View { update, overlap, replicas, paused: false, promoted, groups };
        let words = moves(&view).into_iter().map(|step| match step {
            Move::BringUp(ordinal) => format!("+{ordinal}"),
            Move::TakeOver(ordinal) => format!("={ordinal}"),
            Move::StopFirst(ordinal) => format!("-{ordinal}"),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn policy(strategy: Strategy, surge: u32, unavailable: u32) -> UpdatePolicy {
        UpdatePolicy { strategy, max_surge: surge, max_unavailable: unavailable, ..Policy::plain().update }
    }

    #[test]
    fn a_rolling_update_brings_up_before_it_takes_down() {
        let one = policy(Strategy::Rolling, 1, 0);
        for (seats, expected) in [
            ("a", "+0"),
            ("a+U", ""),
            ("a+R", ""),
            ("a+A", "=0"),
            ("A-d", ""),
            ("a a a", "+0"),
            ("a+A a a", "=0"),
            // The one on its way out counts: never more than replicas + maxSurge.
            ("A-d a a", ""),
            ("A a a", "+1"),
            ("A A A", ""),
            // One that died is not in the way of its successor.
            (".+R", "=0"),
            ("-R", "=0"),
            // One that is unwell has nothing to lose.
            ("u a", "-0 +1"),
            ("u+U a", ""),
        ] {
            assert_eq!(run(&one, true, true, seats), expected, "{seats}");
        }
        assert_eq!(run(&policy(Strategy::Rolling, 2, 0), true, true, "a a a"), "+0 +1");
    }

    #[test]
    fn without_room_for_two_the_old_one_stops_first_and_the_rest_stays_available() {
        let none = policy(Strategy::Rolling, 0, 1);
        for (seats, expected) in
            [("a a a", "-0"), ("s a a", ""), ("U a a", ""), ("R a a", ""), ("A a a", "-1")]
        {
            assert_eq!(run(&none, true, true, seats), expected, "{seats}");
        }
        assert_eq!(run(&policy(Strategy::Rolling, 1, 0), false, true, "a"), "-0", "it binds a port itself");
        assert_eq!(run(&policy(Strategy::Rolling, 1, 1), true, true, "a a"), "+0");
        assert_eq!(run(&policy(Strategy::Rolling, 1, 1), true, true, "a+U a"), "-1");
    }

    #[test]
    fn recreate_stops_all_at_once() {
        assert_eq!(run(&policy(Strategy::Recreate, 1, 0), true, true, "a a r"), "-0 -1 -2");
    }

    #[test]
    fn blue_and_green_change_together() {
        let update = policy(Strategy::BlueGreen, 1, 0);
        for (seats, expected) in [("a a", "+0 +1"), ("a+A a+U", ""), ("a+A a+A", "=0 =1"), ("A-d a+A", "=1")]
        {
            assert_eq!(run(&update, true, true, seats), expected, "{seats}");
        }
        assert_eq!(
            run(&policy(Strategy::BlueGreen, 1, 1), true, true, "a+U a+U"),
            "",
            "nothing old goes yet"
        );
    }

    #[test]
    fn canaries_stay_beside_the_old_ones_until_they_are_promoted() {
        let canary =
            CanaryPolicy { share: CanaryShare::Percent(30), hold: Duration::ZERO, auto_promote: false };
        let update = policy(Strategy::Canary(canary), 1, 0);
        for (seats, promoted, expected) in [
            ("a a a a", false, "+0 +1"),
            ("a+A a+A a a", false, ""),
            ("a+A a+A a a", true, "=0 =1"),
            ("A A a a", true, "+2"),
            // One that is unwell waits for the word, too.
            ("a+A a+A u a", false, ""),
            ("u a u a", false, "-0 +1"),
        ] {
            assert_eq!(run(&update, true, promoted, seats), expected, "{seats} {promoted}");
        }
        assert_eq!(canary.count(1), 1);
    }
}
