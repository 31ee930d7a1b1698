//! Tables of what becomes of servers.

use super::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_server_is_given_up_after_the_grace_and_not_before() {
    let cases = [
        (0, 0, Health::Well),
        (0, 59, Health::Well),
        (0, 60, Health::Deaf),
        (1, 1, Health::Suspect),
        (19, 100, Health::Suspect),
        (20, 0, Health::Dead),
    ];
    for (unanswered, stream_down, expected) in cases {
        assert_eq!(judge_health(s(unanswered), s(stream_down), s(20)), expected, "{unanswered} {stream_down}");
    }
}

fn place(project: i64, seats: usize, serving: u64, unused: u64) -> Place {
    Place { project, seats, serving: s(serving), unused: s(unused), leaving: None }
}

fn leaving(place: Place, how: Leaving) -> Place {
    Place { leaving: Some(how), ..place }
}

fn want(project: i64, refused_for: u64) -> Want {
    Want { project, refused_for: s(refused_for) }
}

/// evict, renew, drain, grant.
type Expected<'a> = (&'a [i64], &'a [i64], &'a [i64], &'a [i64]);

fn check(name: &str, places: &[Place], wanted: &[Want], most: usize, expected: Expected<'_>) {
    let decided = assign(places, wanted, most, 10, s(60));
    let found = (&*decided.evict, &*decided.renew, &*decided.drain, &*decided.grant);
    assert_eq!(found, expected, "{name}");
}

#[test]
fn places_go_to_those_who_have_one_then_to_those_who_waited_longest() {
    let (a, b) = (place(1, 1, 100, 0), place(2, 2, 50, 0));
    let idle = |project, unused| place(project, 0, 500, unused);
    check("free places", &[], &[want(1, 0), want(2, 0)], 2, (&[], &[], &[], &[1, 2]));
    check("no more than there are", &[], &[want(1, 0), want(2, 5), want(3, 1)], 2, (&[], &[], &[], &[2, 3]));
    check("one's own place", &[a, b], &[want(1, 0), want(2, 0)], 2, (&[], &[], &[], &[1, 2]));
    check("busy ones stay", &[a, b], &[want(3, 59)], 2, (&[], &[], &[], &[]));
    check(
        "the least recently used idle one goes",
        &[a, idle(4, 7), idle(5, 9)],
        &[want(3, 0)],
        3,
        (&[5], &[], &[], &[3]),
    );
    check("an idle one that is wanted stays", &[a, idle(4, 7)], &[want(4, 0), want(3, 0)], 2, (&[], &[], &[], &[4]));
}

#[test]
fn who_was_refused_for_long_makes_the_longest_serving_one_drain() {
    let (a, b) = (place(1, 1, 100, 0), place(2, 2, 500, 0));
    let both = [want(1, 0), want(2, 0), want(3, 60)];
    check("the longest-serving one drains", &[a, b], &both, 2, (&[], &[], &[2], &[1]));
    let draining = leaving(b, Leaving::MakesRoom);
    check("one at a time", &[a, draining], &both, 2, (&[], &[], &[], &[1]));
    check("two wait, two drain", &[a, b], &[want(3, 60), want(4, 61)], 2, (&[], &[], &[2, 1], &[]));
    let drained = Place { seats: 0, ..draining };
    check("its place goes to who waited", &[a, drained], &both, 2, (&[2], &[], &[], &[3, 1]));
    check("and stays its own if nobody else waits", &[a, drained], &[want(2, 0)], 2, (&[], &[], &[], &[2]));
    let between = Place { seats: 0, ..b };
    check("one that is idle for a moment drains too", &[a, between], &both, 2, (&[], &[], &[2], &[1]));
}

#[test]
fn a_server_that_renews_takes_no_turns_until_it_is_idle_and_then_is_a_new_one() {
    let renews = leaving(place(1, 1, 100, 0), Leaving::Renews);
    check("busy", &[renews], &[want(1, 0)], 2, (&[], &[], &[], &[]));
    check("idle", &[Place { seats: 0, ..renews }], &[want(1, 0)], 2, (&[], &[1], &[], &[1]));
}

#[test]
fn no_more_idle_servers_end_than_there_are_turns_to_begin() {
    let idle = [place(1, 0, 9, 9), place(2, 0, 9, 8)];
    let decided = assign(&idle, &[want(3, 0), want(4, 0), want(5, 99)], 2, 1, s(60));
    assert_eq!((decided.evict, decided.grant, decided.drain), (vec![1], vec![5], vec![]));
}

#[test]
fn never_more_places_than_allowed_and_never_one_taken_from_a_turn() {
    // Every small world: three projects, each with or without a place, seats, leaving or not, wanted or not.
    let states = |project| {
        let held = [0, 1].into_iter().flat_map(move |seats| {
            [None, Some(Leaving::MakesRoom), Some(Leaving::Renews)]
                .map(|leaving| Some(Place { leaving, ..place(project, seats, project.unsigned_abs(), 1) }))
        });
        held.chain([None]).collect::<Vec<_>>()
    };
    for one in states(1) {
        for two in states(2) {
            for three in states(3) {
                let places: Vec<Place> = [one, two, three].into_iter().flatten().collect();
                for wants in 0..8_u32 {
                    let wanted: Vec<Want> =
                        (1..=3).filter(|n| wants & (1 << (n - 1)) != 0).map(|n| want(n, 100)).collect();
                    for most in places.len().max(1)..=3 {
                        check_world(&places, &wanted, most);
                    }
                }
            }
        }
    }
}

fn check_world(places: &[Place], wanted: &[Want], most: usize) {
    let decided = assign(places, wanted, most, 10, s(60));
    let world = format!("{places:?} {wanted:?} {most}: {decided:?}");
    let of = |project: i64| places.iter().find(|place| place.project == project);
    for ended in decided.evict.iter().chain(&decided.renew) {
        assert_eq!(of(*ended).map(|place| place.seats), Some(0), "{world}");
    }
    let mut after: Vec<i64> = places.iter().map(|place| place.project).collect();
    after.retain(|project| !decided.evict.contains(project));
    for granted in &decided.grant {
        assert!(wanted.iter().any(|want| want.project == *granted), "{world}");
        assert!(!decided.evict.contains(granted) && !decided.drain.contains(granted), "{world}");
        if !after.contains(granted) {
            after.push(*granted);
        }
    }
    assert!(after.len() <= most, "{world}");
    let mut unique = decided.grant.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), decided.grant.len(), "{world}");
}

#[test]
fn servers_are_ended_when_idle_drained_when_they_must_be_and_cut_off_only_when_found_wanting() {
    let bounds = Bounds { unused: s(1800), age: s(86_400), resident: 1000, drain: s(600) };
    let idle = Tended::default();
    let busy = Tended { seats: 1, ..idle };
    let cases = [
        (idle, Care::Keep),
        (Tended { unused: s(1800), ..idle }, Care::End(Reason::Unused)),
        (Tended { age: s(86_400), ..idle }, Care::End(Reason::Age)),
        (Tended { resident: Some(1000), ..idle }, Care::End(Reason::Memory)),
        (Tended { outdated: Some(s(0)), ..idle }, Care::End(Reason::Configuration)),
        (Tended { retired: Some(s(0)), ..idle }, Care::End(Reason::Retired)),
        (Tended { dead: true, ..idle }, Care::End(Reason::Dead)),
        // With a turn on it, none of these ends it.
        (Tended { unused: s(9999), age: s(86_400), resident: Some(1999), outdated: Some(s(599)), ..busy }, Care::Keep),
        (Tended { dead: true, ..busy }, Care::Keep),
        (Tended { resident: Some(2000), ..busy }, Care::Drain(Reason::Memory)),
        (Tended { age: s(200_000), ..busy }, Care::Drain(Reason::Age)),
        (Tended { outdated: Some(s(600)), ..busy }, Care::Drain(Reason::Configuration)),
        (Tended { retired: Some(s(599)), ..busy }, Care::Drain(Reason::Retired)),
        (Tended { retired: Some(s(600)), ..busy }, Care::EndBusy(Reason::Retired)),
    ];
    for (server, expected) in cases {
        assert_eq!(tend(&server, &bounds), expected, "{server:?}");
    }
}
