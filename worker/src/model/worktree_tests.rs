use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const LIMITS: Limits = Limits { grace: HOUR, trash_kept: Duration::from_secs(7 * 86_400), pool_has_room: false };

/// Idle, of an open session.
const IDLE: Facts = Facts {
    state: State::Ready,
    session: Session::Open,
    leased: false,
    has_open_tasks: false,
    let_go: None,
    trashed: None,
    asked: false,
    kept: false,
    makes_room: false,
};
const CLOSED: Facts = Facts { session: Session::Closed, let_go: Some(HOUR), ..IDLE };
const DELETED: Facts = Facts { session: Session::Deleted, let_go: Some(HOUR), ..IDLE };
const TRASHED: Facts = Facts { state: State::Trashed, trashed: Some(HOUR), ..CLOSED };
const POOLED: Facts = Facts { state: State::Pooled, session: Session::Deleted, ..IDLE };

#[test]
fn only_what_the_database_positively_says_makes_an_orphan() {
    use Decision::*;
    let minute = Some(Duration::from_secs(60));
    let roomy = Limits { pool_has_room: true, ..LIMITS };
    let cases = [
        ("an open session", IDLE, LIMITS, Stay(Stays::SessionOpen)),
        ("open, however long idle", Facts { let_go: Some(HOUR * 100), ..IDLE }, LIMITS, Stay(Stays::SessionOpen)),
        ("closed", CLOSED, LIMITS, Trash(Reason::SessionClosed)),
        ("closed, and there is room in the pool", CLOSED, roomy, Pool),
        ("closed a minute ago", Facts { let_go: minute, ..CLOSED }, LIMITS, Stay(Stays::Grace)),
        ("closed nobody knows when", Facts { let_go: None, ..CLOSED }, LIMITS, Stay(Stays::Grace)),
        ("deleted", DELETED, LIMITS, Trash(Reason::SessionDeleted)),
        ("deleted: never to the pool", DELETED, roomy, Trash(Reason::SessionDeleted)),
        ("deleted a minute ago", Facts { let_go: minute, ..DELETED }, LIMITS, Stay(Stays::Grace)),
        ("closed, with a lease", Facts { leased: true, ..CLOSED }, LIMITS, Stay(Stays::Leased)),
        ("closed, with a task", Facts { has_open_tasks: true, ..CLOSED }, LIMITS, Stay(Stays::OpenTasks)),
        ("lost in use, then closed", Facts { state: State::InUse, ..CLOSED }, LIMITS, Trash(Reason::SessionClosed)),
        ("asked, open", Facts { asked: true, ..IDLE }, LIMITS, Trash(Reason::Asked)),
        ("asked, leased", Facts { asked: true, leased: true, ..IDLE }, LIMITS, Stay(Stays::Leased)),
        ("asked, a task waits", Facts { asked: true, has_open_tasks: true, ..IDLE }, LIMITS, Stay(Stays::OpenTasks)),
        ("restored, to keep", Facts { kept: true, ..DELETED }, LIMITS, Stay(Stays::Kept)),
        ("restored, then asked", Facts { kept: true, asked: true, ..DELETED }, LIMITS, Trash(Reason::Asked)),
        ("restored, over quota", Facts { kept: true, makes_room: true, ..DELETED }, LIMITS, Stay(Stays::Kept)),
        ("makes room", Facts { makes_room: true, ..IDLE }, LIMITS, Trash(Reason::Quota)),
        ("makes room, leased", Facts { makes_room: true, leased: true, ..IDLE }, LIMITS, Stay(Stays::Leased)),
        ("begun", Facts { state: State::Reaping, ..CLOSED }, LIMITS, Settle),
        ("begun, and leased since", Facts { state: State::Reaping, leased: true, ..IDLE }, LIMITS, Settle),
        ("in the trash", TRASHED, LIMITS, Stay(Stays::InTrash)),
        ("in the trash for a week", Facts { trashed: Some(HOUR * 168), ..TRASHED }, LIMITS, Empty),
        ("in the trash, makes room", Facts { makes_room: true, ..TRASHED }, LIMITS, Empty),
        ("pooled", POOLED, LIMITS, Stay(Stays::Pooled)),
        ("pooled, makes room", Facts { makes_room: true, ..POOLED }, LIMITS, Drop),
        ("gone", Facts { state: State::Gone, ..CLOSED }, LIMITS, Stay(Stays::Gone)),
    ];
    for (what, facts, limits, wanted) in cases {
        assert_eq!(decide(&facts, &limits), wanted, "{what}");
    }
}

fn space(id: i64, facts: Facts, bytes: i64) -> Space {
    Space { id, facts, bytes, idle: HOUR * 2, is_safe: true, was_tried: false }
}

#[test]
fn quota_takes_the_largest_idle_first_and_only_what_is_safe() {
    let leased = Facts { leased: true, ..IDLE };
    let fresh = |space: Space| Space { idle: Duration::ZERO, ..space };
    let unsafe_ = |space: Space| Space { is_safe: false, ..space };
    let stuck = |space: Space| Space { was_tried: true, ..space };
    let cases: [(&str, Vec<Space>, i64, Vec<i64>); 9] = [
        ("within", vec![space(1, IDLE, 50), space(2, IDLE, 50)], 100, vec![]),
        ("the largest, and no more", vec![space(1, IDLE, 50), space(2, IDLE, 60)], 100, vec![2]),
        ("until it fits", vec![space(1, IDLE, 50), space(2, IDLE, 60), space(3, IDLE, 70)], 60, vec![3, 2]),
        ("never one in use", vec![space(1, leased, 500), space(2, IDLE, 60)], 100, vec![2]),
        ("never one just used", vec![fresh(space(1, IDLE, 500)), space(2, IDLE, 60)], 100, vec![2]),
        (
            "the pool, then the trash",
            vec![space(1, IDLE, 500), space(2, TRASHED, 60), space(3, POOLED, 10)],
            500,
            vec![3, 2],
        ),
        ("another for one that cannot go", vec![stuck(space(1, IDLE, 500)), space(2, IDLE, 60)], 100, vec![2]),
        ("never trash that is not safe", vec![space(1, IDLE, 50), unsafe_(space(2, TRASHED, 60))], 100, vec![1]),
        (
            "what was just moved to the trash is room already promised",
            vec![space(1, IDLE, 80), fresh(space(2, TRASHED, 60))],
            100,
            vec![],
        ),
    ];
    for (what, worktrees, quota, wanted) in cases {
        assert_eq!(over_quota(&worktrees, quota, HOUR), wanted, "{what}");
    }
}
