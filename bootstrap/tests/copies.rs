//! Copies of another member's data, on real servers.

mod harness;

use ha_bootstrap::{control_data, pgdata, steps};
use ha_core::effect::Step;
use ha_core::local::DataDir;
use harness::{Node, as_postgres};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_source_that_does_not_answer_costs_nothing() {
    as_postgres("a_source_that_does_not_answer_costs_nothing", |dir| {
        let (one, two) = (Node::new(dir, "pg1"), Node::new(dir, "pg2"));
        one.initdb();
        let before = control_data::read(one.site.data_dir()).expect("read");
        let gone = two.upstream_for(&one);
        for step in [Step::BaseBackup { from: gone.clone() }, Step::Rewind { from: gone }] {
            let error = one.step(&step).expect_err("nobody is there");
            assert!(error.contains("psql"), "{error}");
            assert_eq!(control_data::read(one.site.data_dir()).expect("still there"), before);
            assert!(matches!(pgdata::observe(&one.site), DataDir::Present(_)));
        }
    });
}

#[test]
fn an_interrupted_copy_leaves_nothing_and_an_interrupted_rewind_a_mark() {
    as_postgres("an_interrupted_copy_leaves_nothing_and_an_interrupted_rewind_a_mark", |dir| {
        let (one, two) = (Node::new(dir, "pg1"), Node::new(dir, "pg2"));
        one.initdb();
        one.start_primary();
        let mut slow = two.site.config.as_ref().clone();
        slow.postgresql.basebackup =
            vec![ha_core::config::CommandOption { name: "max-rate".to_owned(), value: Some("1M".to_owned()) }];
        let (mut context, _events) = two.context();
        context.site.config = Arc::new(slow);
        let from = one.upstream_for(&two);
        let cancel = context.cancel.clone();
        let canceller = std::thread::Builder::new().spawn({
            let data_dir = two.site.data_dir().to_owned();
            move || {
                while !data_dir.join("base").exists() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                cancel.cancel();
            }
        });
        let result = steps::perform(&Step::BaseBackup { from: from.clone() }, &context);
        canceller.expect("a thread").join().expect("no panic");
        assert!(matches!(result, Err(ha_bootstrap::error::Error::Cancelled)), "{result:?}");
        assert_eq!(pgdata::observe(&two.site), DataDir::Empty);

        // Had the supervisor itself died, the mark would have stayed.
        pgdata::begin_unfinished(&two.site, &format!("{} from pg1", pgdata::COPYING)).expect("marked");
        std::fs::write(two.site.data_dir().join("PG_VERSION"), "15\n").expect("written");
        assert!(matches!(pgdata::observe(&two.site), DataDir::Damaged { half_copied: true, .. }));
        two.step(&Step::BaseBackup { from }).expect("a copy over what was left");
        assert!(matches!(pgdata::observe(&two.site), DataDir::Present(_)));

        // Somebody has put a whole directory where the mark still is.
        pgdata::begin_unfinished(&two.site, &format!("{} from pg1", pgdata::COPYING)).expect("marked");
        std::fs::write(two.site.data_dir().join("his_own"), "").expect("written");
        two.step(&Step::BaseBackup { from: one.upstream_for(&two) }).expect("a copy in its place");
        assert!(dir.join("pg2.failed/his_own").exists(), "it is only renamed");
        pgdata::begin_unfinished(&two.site, "rewinding onto pg1").expect("marked");
        assert!(matches!(pgdata::observe(&two.site), DataDir::Damaged { half_copied: false, .. }));
        two.step(&Step::SetAside).expect("set aside");
        assert_eq!(pgdata::observe(&two.site), DataDir::Empty);
        assert!(dir.join("pg2.failed/PG_VERSION").exists());
        one.stop();
    });
}

#[test]
fn whole_data_give_way_to_those_of_a_primary_alone() {
    as_postgres("whole_data_give_way_to_those_of_a_primary_alone", |dir| {
        let [one, two, three] = ["pg1", "pg2", "pg3"].map(|name| Node::new(dir, name));
        one.initdb();
        one.start_primary();
        two.step(&Step::BaseBackup { from: one.upstream_for(&two) }).expect("a copy");
        two.start_standby(&one);
        three.step(&Step::BaseBackup { from: one.upstream_for(&three) }).expect("a copy");

        let of_standby = Step::BaseBackup { from: two.upstream_for(&three) };
        std::fs::write(three.site.data_dir().join("kept"), "").expect("written");
        let refused = three.step(&of_standby).expect_err("its source is a standby");
        assert!(refused.contains("is a standby"), "{refused}");
        assert!(matches!(pgdata::observe(&three.site), DataDir::Present(_)));
        assert!(three.site.data_dir().join("kept").exists(), "as it was");

        pgdata::clear(&three.site).expect("emptied");
        three.step(&of_standby).expect("nothing is lost by it");
        three.step(&Step::BaseBackup { from: one.upstream_for(&three) }).expect("of a primary");
        two.stop();
        one.stop();
    });
}
