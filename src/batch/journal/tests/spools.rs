//! Files.

use std::io::Write;

use super::*;

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions()) & 0o777
}

#[tokio::test]
#[cfg(unix)]
async fn nobody_else_may_read_what_is_asked_and_answered() {
    let home = Home::file();
    let journal = home.journal().await;
    planned(&journal, draft(1, 1), |_| ()).await;
    journal.output(&key(1, 0, 0), 1).unwrap().append(b"{}").unwrap();
    journal.write_input(&key(1, 0, 0), |file| file.write_all(b"{}\n")).unwrap();
    journal.keep_cached(id(1), b"{}".to_vec()).await.unwrap();
    let folder = home.spool().join(id(1).as_str());
    assert_eq!((mode(&home.spool()), mode(&folder)), (0o700, 0o700));
    let files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 5, "{files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600));
}

#[tokio::test]
async fn what_a_crash_cut_off_is_left_out_and_the_rest_is_kept() {
    let home = Home::file();
    let journal = home.journal().await;
    planned(&journal, draft(1, 1), |_| ()).await;
    let mut output = journal.output(&key(1, 0, 0), 4).unwrap();
    let long = vec![b'x'; 200_000];
    let places = [&b"{\"row\":1}"[..], &long, b""].map(|row| output.append(row).unwrap());
    output.sync().unwrap();
    drop(output);
    let file = &*places[0].file;
    assert_eq!(file, "0-0-4.out.jsonl");
    let path = home.spool().join(id(1).as_str()).join(file);
    for torn in [&b"{\"row\":"[..], &long] {
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(torn).unwrap();
        let rows: Vec<_> = journal.rows(id(1), file).unwrap().map(|row| row.unwrap()).collect();
        assert_eq!(rows.iter().map(|(span, _)| *span).collect::<Vec<_>>(), places.clone().map(|place| place.span));
        assert_eq!(rows[1].1, long);
        let mut output = journal.output(&key(1, 0, 0), 4).unwrap();
        let next = output.append(b"{\"row\":2}").unwrap();
        output.sync().unwrap();
        assert_eq!(next.span.offset, places[2].span.offset + 1, "the next row begins where the torn one did");
        assert_eq!(journal.read_answer(id(1), &next).unwrap(), b"{\"row\":2}");
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(next.span.offset).unwrap();
    }
    assert_eq!(journal.read_answer(id(1), &places[1]).unwrap(), long);
    // A file of one torn row has none.
    std::fs::write(&path, "{\"row\":").unwrap();
    assert!(journal.read_answer(id(1), &places[1]).is_err());
    assert_eq!(journal.rows(id(1), file).unwrap().count(), 0);
    assert_eq!(journal.output(&key(1, 0, 0), 4).unwrap().append(b"{}").unwrap().span.offset, 0);
}

#[tokio::test]
async fn a_place_leads_nowhere_else() {
    let home = Home::file();
    let journal = home.journal().await;
    planned(&journal, draft(1, 1), |_| ()).await;
    for file in ["../../inference.db", "/etc/hostname", "..", ".hidden"] {
        let place = Place { file: file.into(), span: Span { offset: 0, len: 1 } };
        assert!(journal.read_answer(id(1), &place).is_err(), "{file}");
    }
}

#[tokio::test]
async fn what_was_uploaded_goes_and_answers_stay_until_they_are_discarded() {
    let home = Home::file();
    let journal = home.journal().await;
    planned(&journal, draft(1, 1), |_| ()).await;
    let chunk = key(1, 0, 0);
    let path = journal.write_input(&chunk, |file| file.write_all(b"{}\n")).unwrap();
    assert_eq!((path.clone(), std::fs::read(&path).unwrap()), (journal.input_path(&chunk), b"{}\n".to_vec()));
    let failed = journal.write_input(&chunk, |file| {
        file.write_all(b"half")?;
        Err(io::Error::other("the disk"))
    });
    failed.unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), b"{}\n", "all of it or nothing");
    let place = journal.keep_cached(id(1), b"{\"a\":1}".to_vec()).await.unwrap();
    let next = journal.keep_cached(id(1), b"{\"b\":1}".to_vec()).await.unwrap();
    journal.remove_inputs(chunk).await.unwrap();
    journal.remove_inputs(chunk).await.unwrap();
    let folder = home.spool().join(id(1).as_str());
    assert!(std::fs::read_dir(&folder).unwrap().all(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        !name.contains(".in.") && !name.contains(".part")
    }));
    assert_eq!(journal.read_answer(id(1), &place).unwrap(), b"{\"a\":1}");
    assert_eq!(journal.read_answer(id(1), &next).unwrap(), b"{\"b\":1}");
    assert!(!journal.discard(id(1)).await.unwrap(), "a line of it waits");
    assert!(folder.exists());
}

#[tokio::test]
async fn a_batch_is_forgotten_once_nothing_of_it_is_under_way() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let named = || Draft { name: Some("labels".into()), ..draft(1, 700) };
        planned(&journal, named(), |_| ()).await;
        let fence = journal.claim(1, at(0)).await.unwrap()[0].fence;
        journal.settle_lines(key(1, 0, 0), fence, (0..700).map(|index| done(index, index)).collect()).await.unwrap();
        assert!(journal.finish(id(1), at(5)).await.unwrap());
        assert_eq!(journal.discard_before(at(9)).await.unwrap(), 0, "a job is out whose bill is not read");
        assert!(!journal.discard(id(1)).await.unwrap());
        journal.forget_requests().await.unwrap();
        assert!(journal.requests(id(1)).is_ok(), "its rows may be of lines whose requests are to be read");
        assert!(journal.settle(key(1, 0, 0), fence, settling(vec![]), at(6)).await.unwrap());
        for _ in 0..2 {
            journal.forget_requests().await.unwrap();
            assert_eq!(journal.requests(id(1)).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        assert_eq!(journal.discard_before(at(5)).await.unwrap(), 0, "it was over at 5, not before");
        assert_eq!(journal.discard_before(at(6)).await.unwrap(), 1);
        assert!(!home.spool().join(id(1).as_str()).exists());
        for (table, column) in
            [("batch", "id"), ("chunk", "batch"), ("line", "batch"), ("transition", "batch"), ("planning", "id")]
        {
            assert_eq!(journal.rows_in(table, column, id(1)).await, 0, "{table}");
        }
        assert!(journal.discard(id(1)).await.unwrap(), "what is gone is gone");
        let again = Draft { id: id(2), ..named() };
        assert_eq!(planned(&journal, again, |_| ()).await, Planned::New, "its name is free");
    }
}

#[tokio::test]
async fn no_word_of_a_request_or_an_answer_is_in_the_database() {
    let home = Home::file();
    let journal = home.journal().await;
    let mut planning = journal.begin(id(1)).await.unwrap();
    let request = planning.add(b"{\"prompt\":\"canary\"}").unwrap();
    let place = planning.cached(b"{\"answer\":\"canary\"}").unwrap();
    let outcome = Some(Outcome { answer: Some(place), cached: true, ..Outcome::new(0, LineState::Done) });
    planning.lines(vec![NewLine { outcome, chunk: None, key: Some([9; 32]), ..line(0, request) }]).await.unwrap();
    planning.finish(draft(1, 1), vec![]).await.unwrap();
    drop(journal);
    for end in ["", "-wal"] {
        let file = home.spool().with_file_name(format!("inference.db{end}"));
        let bytes = std::fs::read(file).unwrap_or_default();
        assert!(memchr::memmem::find(&bytes, b"canary").is_none());
    }
}

#[tokio::test]
async fn a_line_that_is_gathered_is_on_the_disk_before_its_number_is_told() {
    for home in Home::each().await {
        let journal = home.journal().await;
        assert_eq!(journal.gather(draft(1, 0)).await.unwrap(), Planned::New);
        let append = |text: &'static str, deadline| journal.append(id(1), text.into(), Some([3; 32]), deadline);
        assert_eq!(append("{\"a\":1}", Some(at(90))).await.unwrap(), Some(0));
        assert_eq!(append("{\"b\":1}", None).await.unwrap(), Some(1));
        assert_eq!(append("{\"c\":1}", Some(at(60))).await.unwrap(), Some(2));
        let other = home.journal().await;
        let strange = other.append(id(1), b"{}".to_vec(), None, None).await.unwrap();
        assert_eq!(strange, None, "another process gathers it");
        assert!(other.claim(9, at(0)).await.unwrap().is_empty());
        let gatherings = other.gatherings().await.unwrap();
        assert_eq!((gatherings[0].0.deadline, gatherings[0].1, gatherings[0].2), (Some(at(60)), 3, true));
        let lines = other.lines(id(1), 0, 9).await.unwrap();
        let requests = other.requests(id(1)).unwrap();
        assert_eq!(requests.read(lines[1].request).unwrap(), b"{\"b\":1}");
        assert_eq!(requests.read(lines[2].request).unwrap(), b"{\"c\":1}");
        drop(journal);
        while other.gatherings().await.unwrap()[0].2 {
            tokio::task::yield_now().await;
        }
        assert!(other.gathered(id(1)).await.unwrap());
        assert!(!other.gathered(id(1)).await.unwrap());
        assert_eq!(other.append(id(1), b"{}".to_vec(), None, None).await.unwrap(), None);
        let over = other.rounds_over().await.unwrap();
        assert_eq!((over[0].0.round, over[0].1), (0, 3));
        assert!(other.next_round(id(1), 0, vec![chunk(0, 3)], &[(0, 0), (1, 0), (2, 0)], at(1)).await.unwrap());
        assert_eq!(other.lines_of(key(1, 1, 0)).await.unwrap().len(), 3);
    }
}
