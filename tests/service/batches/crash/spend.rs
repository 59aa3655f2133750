//! What a batch costs whose process is killed again and again on its way.

use super::{Job, SMALL, Site};

#[tokio::test]
async fn killed_at_a_tenth_at_half_and_near_the_end_it_costs_one_pass() {
    // Two jobs at a time, so that there is a way.
    let job = Job { lines: 40, jobs: 2, ..SMALL };
    for site in Site::each().await {
        let undisturbed = site.another().await;
        let (ended_well, said) = undisturbed.run(job, "nowhere").await;
        assert!(ended_well, "{said}");
        for percent in [10, 50, 90] {
            let lived = site.kill_when(job, |together| together.bill().lines.len() * 100 >= job.lines * percent).await;
            let answered = site.home.count("SELECT count(*) FROM line WHERE state = 1").await;
            println!("{}: killed at {percent} %, {answered} answers were settled", site.home.kind());
            assert!(lived, "{}: it was over before {percent} %", site.home.kind());
        }
        let (ended_well, said) = site.run(job, "nowhere").await;
        assert!(ended_well, "{said}");
        site.judge("killed three times", job).await;
        let [full, bill] = [&undisturbed, &site].map(|site| site.together.bill().nano_usd);
        assert_eq!(bill, full, "{}: not the price of one pass", site.home.kind());
    }
}
