//! Many processes that begin at the same time, and know nothing of each other but the store.

use futures_util::future::join_all;

use super::{Job, KILL, SMALL, Site, ended};

const PROCESSES: usize = 8;

#[tokio::test]
async fn eight_processes_that_begin_at_once_make_one_job_of_each_chunk() {
    let job = Job { lines: 32, ..SMALL };
    for site in Site::each().await {
        let children: Vec<_> = (0..PROCESSES).map(|_| site.start(job, (KILL, "nowhere"))).collect();
        for (child, (ended_well, said)) in join_all(children.into_iter().map(ended)).await.into_iter().enumerate() {
            assert!(ended_well, "{}, child {child}: {said}", site.home.kind());
        }
        site.judge("eight at once", job).await;
        let batches = site.home.count("SELECT count(*) FROM batch").await;
        assert_eq!(batches, 1, "{}: one name is one batch", site.home.kind());
    }
}
