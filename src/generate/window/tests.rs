use super::super::noise::Noise;
use super::*;

/// A policy after passes of every window up to 64 with the given costs, and walks in which guess `i` is true
/// with probability `shares(i)` if those before were.
fn taught(cost: impl Fn(usize) -> f64, share: impl Fn(usize) -> f64) -> WindowPolicy {
    let mut policy = WindowPolicy::new(Window::Auto);
    (1..=130).for_each(|rows| policy.record_pass(rows, cost(rows)));
    // No multiple of the turns of exploration.
    for walk in 0..400 {
        let noise = Noise::new(1, walk);
        let fails = |place: &usize| noise.uniform(*place as u32) > share(*place);
        let kept = (0..MAX_WINDOW).find(fails).unwrap_or(MAX_WINDOW);
        policy.record_walk(DraftKind::Image, MAX_WINDOW, kept);
    }
    policy
}

fn chosen(policy: &WindowPolicy, lanes: usize, other_rows: usize) -> usize {
    policy.choose(DraftKind::Image, lanes, other_rows, MAX_WINDOW)
}

#[test]
fn windows_are_read_as_they_are_written_and_others_are_named() {
    for text in ["off", "auto", "1", "64"] {
        assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
    }
    for text in ["0", "65", "-1", "of", ""] {
        let error = text.parse::<Window>().unwrap_err().to_string();
        assert_eq!(error, format!("window is {text:?}; allowed: 1 to 64, auto, off"));
    }
}

#[test]
fn a_given_window_is_taken_up_to_the_limit() {
    let size = |window| WindowPolicy::new(window).choose(DraftKind::Text, 1, 0, 10);
    assert_eq!((size(Window::Off), size(Window::Fixed(4)), size(Window::Fixed(16))), (0, 4, 10));
    assert!(chosen(&WindowPolicy::new(Window::Auto), 1, 0) > 0, "the start makes a try");
}

#[test]
fn passes_that_cost_the_same_get_the_largest_window() {
    let policy = taught(|_| 0.1, |_| 0.8);
    assert_eq!(chosen(&policy, 1, 0), MAX_WINDOW);
    assert_eq!(policy.choose(DraftKind::Image, 2, 0, 5), 5);
}

#[test]
fn rows_at_full_price_get_no_window() {
    let policy = taught(|rows| 0.1 * rows as f64, |_| 0.8);
    assert_eq!((chosen(&policy, 1, 0), chosen(&policy, 2, 0)), (0, 0));
}

#[test]
fn a_window_fills_the_rows_up_to_a_knee() {
    // Up to 17 rows a pass costs its weights, from there on its rows.
    let knee = |rows: usize| 0.1 * (rows as f64 / 17.0).max(1.0);
    let policy = taught(knee, |_| 0.8);
    assert_eq!(chosen(&policy, 1, 0), 16);
    assert_eq!(chosen(&policy, 2, 0), 7, "two lanes of 8 rows");
    assert_eq!(chosen(&policy, 1, 10), 6, "beside ten rows");
}

#[test]
fn guesses_that_fail_more_often_shrink_the_window() {
    let cost = |rows: usize| 0.1 * (1.0 + rows as f64 / 17.0);
    let windows: Vec<usize> =
        [0.9, 0.7, 0.4, 0.02].iter().map(|&p| chosen(&taught(cost, |_| p), 1, 0)).collect();
    assert!(windows.is_sorted_by(|a, b| a > b), "{windows:?}");
    assert_eq!(windows[3], 0);
    // After the fourth guess all fail.
    assert_eq!(chosen(&taught(cost, |i| if i < 4 { 0.95 } else { 0.0 }), 1, 0), 4);
}

#[test]
fn new_walks_replace_old_ones() {
    let cost = |rows: usize| 0.1 * (1.0 + rows as f64 / 17.0);
    let mut policy = taught(cost, |_| 0.9);
    let before = chosen(&policy, 1, 0);
    for _ in 0..400 {
        policy.record_walk(DraftKind::Image, before, 0);
    }
    assert!(before > 4);
    assert_eq!(chosen(&policy, 1, 0), 0);
}

#[test]
fn one_slow_pass_does_not_change_the_choice() {
    let knee = |rows: usize| 0.1 * (rows as f64 / 17.0).max(1.0);
    let mut policy = taught(knee, |_| 0.8);
    for rows in [1, 17] {
        (0..8).for_each(|_| policy.record_pass(rows, 0.1));
    }
    policy.record_pass(17, 30.0);
    policy.record_pass(1, 30.0);
    assert!(chosen(&policy, 1, 0) >= 14);
}

#[test]
fn images_and_text_are_judged_apart() {
    let mut policy = taught(|rows| 0.1 * (1.0 + rows as f64 / 17.0), |_| 0.8);
    for _ in 0..200 {
        policy.record_walk(DraftKind::Text, 10, 0);
    }
    assert_eq!(policy.choose(DraftKind::Text, 1, 0, 10), 0);
    assert!(chosen(&policy, 1, 0) > 0);
}

#[test]
fn larger_and_smaller_windows_are_tried_now_and_then() {
    let mut policy = taught(|rows| 0.1 * (1.0 + rows as f64 / 17.0), |_| 0.8);
    let mut windows = Vec::new();
    for _ in 0..960 {
        let window = chosen(&policy, 1, 0);
        windows.push(window);
        policy.record_walk(DraftKind::Image, window, window.min(4));
    }
    // After the new walks have replaced those taught.
    let last = &windows[320..];
    let best = last[0];
    let tries = |wrong: &dyn Fn(usize) -> bool| last.iter().filter(|&&w| wrong(w)).count();
    let (smaller, larger) = (tries(&|w| w < best - 1), tries(&|w| w > best + 1));
    assert!((smaller, larger) == (10, 10), "{smaller} and {larger} around {best}");
}

#[test]
fn the_choice_depends_only_on_what_was_fed() {
    let feed = |policy: &mut WindowPolicy| -> Vec<usize> {
        (0..200)
            .map(|step| {
                let window = chosen(policy, 2, step % 5);
                policy.record_pass(2 * (window + 1), 0.01 + 0.001 * window as f64);
                policy.record_walk(DraftKind::Image, window, window.min(step % 7));
                window
            })
            .collect()
    };
    let (mut one, mut other) = (WindowPolicy::new(Window::Auto), WindowPolicy::new(Window::Auto));
    // Questions change nothing.
    assert!((0..100).all(|rows| chosen(&other, 1, rows) <= MAX_WINDOW));
    assert_eq!(feed(&mut one), feed(&mut other));
}

#[test]
fn the_best_window_is_found_from_the_start_by_its_own_passes() {
    // Passes up to 34 rows cost the same: far more than the start assumes.
    let mut policy = WindowPolicy::new(Window::Auto);
    let mut last = Vec::new();
    for step in 0..200 {
        let window = chosen(&policy, 2, 0);
        let rows = 2 * (window + 1);
        policy.record_pass(rows, 0.1 * (rows as f64 / 34.0).max(1.0));
        // Five ids of a pass on average.
        policy.record_walk(DraftKind::Image, window, window.min([1, 3, 5, 7, 9][step % 5]));
        last.push(window);
    }
    let found = last[190..].iter().filter(|&&window| (8..=17).contains(&window)).count();
    assert!(found >= 8, "{last:?}");
}
