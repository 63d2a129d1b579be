//! What every store of views must do: one suite, run by the tests of each.
//!
//! A store's test says where its views live ([`Place`]) and names the suite ([`conformance_suite!`](crate::conformance_suite)); each check
//! becomes a test of its own, on a place of its own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{Views, ViewsError, ViewsWriter};

pub mod following;
pub mod reading;
pub mod rebuild;
pub mod runner;
pub mod saving;
pub mod shop;

/// Where views under test live: a directory, a database. Dropped, it is cleaned up.
pub trait Place: Sync {
    /// Opens the views, which are made when there are none: who writes them, and who reads them.
    fn open(&self) -> (Box<dyn ViewsWriter>, Arc<dyn Views>);

    /// Opens the views, and takes them as soon as whoever had them before is gone.
    ///
    /// # Panics
    /// They cannot be taken.
    fn take(&self) -> (Box<dyn ViewsWriter>, Arc<dyn Views>) {
        let (mut writer, views) = self.open();
        let began = Instant::now();
        loop {
            match writer.take() {
                Ok(()) => return (writer, views),
                Err(ViewsError::Held(_)) if began.elapsed() < Duration::from_secs(20) => std::thread::sleep(Duration::from_millis(2)),
                Err(error) => panic!("the views are taken: {error}"),
            }
        }
    }

    /// Opens views that somebody else writes; why not, when they are not views of today's shapes.
    fn open_read_only(&self) -> Result<Arc<dyn Views>, String>;

    /// A new, empty place of the same kind.
    #[must_use]
    fn another(&self) -> Self;

    /// Everything that the views hold, a line for each row (`table: columns`) in a fixed order, whatever its place in the store.
    fn dump(&self) -> String;

    /// Puts a row into `accounts_v1`, past the port.
    fn add_an_account_that_no_event_explains(&self);

    /// Makes them views of other shapes, past the port: of other names, and with rows of orders that nobody can read.
    fn make_of_other_shapes(&self);
}

/// Makes a test of each check of the suite. Takes an expression that makes a new, empty [`Place`](crate::conformance::Place).
#[macro_export]
macro_rules! conformance_suite {
    ($place:expr) => {
        $crate::conformance_suite! { $place;
            reading::pages_show_each_order_once_newest_first,
            reading::purchases_that_have_not_ended_are_listed_oldest_first_and_those_that_need_a_person_apart,
            reading::a_scope_shows_its_own_orders_only,
            reading::a_status_narrows_every_scope,
            reading::a_search_takes_every_character_as_it_is,
            reading::an_order_is_found_by_id_number_and_tracking_id,
            reading::products_are_searched_and_paged,
            reading::a_balance_shows_how_it_came_about_page_by_page,
            reading::a_seller_sees_only_those_who_ordered_of_them,
            reading::no_question_is_answered_without_a_bound,
            reading::many_threads_ask_at_once,
            following::a_follower_says_how_far_views_are_that_somebody_else_writes,
            following::a_follower_says_that_views_stand_still_while_the_log_goes_on,
            following::a_follower_of_views_that_are_filled_anew_begins_again,
            following::a_follower_looks_at_views_as_soon_as_somebody_says_that_there_is_something_new,
            rebuild::any_way_to_the_views_gives_the_views_of_one_fold,
            runner::what_is_offered_is_shown_and_says_how_far_it_is,
            runner::what_the_tail_has_no_room_for_is_read_from_the_log,
            runner::events_that_nobody_offers_are_read_from_the_log,
            runner::events_that_the_log_tells_of_are_read_at_once,
            runner::an_event_that_cannot_be_read_stalls_the_views_after_all_before_it,
            runner::a_shard_that_is_stalled_is_named_and_the_others_go_on_by_the_tail,
            runner::a_shard_whose_trouble_is_over_goes_on,
            runner::views_that_are_kept_before_there_is_a_log_are_not_filled_anew_by_the_next_start,
            runner::an_event_that_does_not_fit_stalls_the_views_after_all_before_it,
            runner::views_of_another_log_are_filled_anew,
            runner::views_that_are_ahead_of_a_restored_log_are_filled_anew,
            runner::views_of_events_that_the_log_has_lost_are_filled_anew,
            runner::views_whose_log_loses_its_end_while_they_are_kept_are_filled_anew,
            runner::views_are_filled_anew_whichever_shard_lost_events,
            runner::views_of_a_log_that_goes_on_are_not_filled_anew,
            runner::a_stalled_shard_is_tried_again_however_much_comes_of_the_others,
            runner::two_runners_on_the_same_views_count_each_event_once,
            runner::a_runner_that_takes_over_goes_on_where_the_other_was,
            runner::a_runner_that_is_stopped_says_so_and_leaves_the_rest_for_later,
            saving::views_of_other_shapes_are_filled_anew,
            saving::of_two_writers_that_save_the_same_one_is_told_that_it_counts_already,
            saving::a_checkpoint_elsewhere_saves_nothing_of_the_batch,
            saving::a_row_that_should_be_there_and_is_not_saves_nothing_of_the_batch,
            saving::a_row_that_is_there_already_saves_nothing_of_the_batch,
            saving::any_text_comes_back_as_it_was_and_is_found,
            saving::views_filled_anew_hold_nothing_of_before,
        }
    };
    ($place:expr; $($part:ident::$check:ident,)+) => {
        $(
            #[test]
            fn $check() {
                $crate::conformance::$part::$check(&$place);
            }
        )+
    };
}
