# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Span processors: what happens to a span between its start and its hand-over to an exporter.

Delivery keeps to these invariants. The tests that show an invariant are listed below it.

**D1.** Each sampled span that has ended is stored, rejected by MLflow, filtered, queued, spilled or
dropped. The six counters of `status()` add up to the number of these spans at any moment. With
``traces="genai"``, a trace with a wanted span is delivered whole and other traces are filtered,
also if some of their spans have no slot or are on disk. A span of a single ASGI message is filtered
unless it has a child.

- ``test_delivery_model.py::TestDelivery``
- ``test_filter_and_spool.py::test_a_root_with_a_slot_is_sent_although_its_chat_had_none``
- ``test_filter_and_spool.py::test_plain_traces_without_a_slot_are_filtered``
- ``test_filter_and_spool.py::test_plain_traces_of_a_killed_process_are_filtered``
- ``test_asgi_io.py::test_messages_are_filtered_and_counted``
- ``test_asgi_io.py::test_a_message_with_a_child_is_kept``
- ``test_status_at_any_moment.py::test_the_counters_add_up_at_any_moment``

**D2.** A thread that ends a span never waits for the network. It writes to the disk only with
write-ahead, and after the shutdown. It waits for a slot for at most ``block_seconds``; with the
policy "spill" and a spool for at most 40 ms, and only while the disk is slower than the program. A
thread that runs an event loop does not wait for a slot at all.

- ``test_caller_thread.py::test_a_disk_that_hangs_does_not_hold_up_the_thread_that_ends_spans``
- ``test_caller_thread.py::test_with_write_ahead_the_thread_that_ends_a_span_writes_it``
- ``test_no_room.py::test_a_wait_for_the_disk_is_short_and_not_repeated_after_a_failed_wait``
- ``test_no_room.py::test_the_thread_of_an_event_loop_does_not_wait_for_the_disk``
- ``test_processor_limit.py::test_a_thread_with_a_running_event_loop_never_waits``

**D3.** Spans of the queue are sent in the order in which they ended, and a batch that fails is sent
again before the next one. Spans that went to the spool have an order of their own, and so have
spans that the filter of traces holds back.

- ``test_processor.py::test_spans_are_delivered_in_order_and_in_batches_by_one_thread``
- ``test_processor.py::test_an_unavailable_destination_loses_no_span``
- ``test_spool.py::test_spans_are_given_out_in_order_and_removed``

**D4.** One thread of a processor talks to MLflow: it opens the destination, sends and closes.

- ``test_processor.py::test_spans_are_delivered_in_order_and_in_batches_by_one_thread``
- ``test_processor.py::test_the_destination_is_opened_while_the_first_span_is_under_way``
- ``test_import_at_first_span.py::test_the_import_begins_at_the_start_of_the_first_genai_span``

**D5.** A span may be sent twice, which is harmless: MLflow stores one span for each trace and span
id. So an interrupted delivery is begun again.

- ``test_export_destinations.py::test_sent_again_is_stored_once``
- ``test_redelivery.py::test_a_redelivery_that_is_interrupted_begins_again``

**D6.** Memory is bounded. An ended span has one of ``max_queue_size`` slots, or one of
``max_spill_queue_size`` while it waits for the disk. Spans that the filter of traces holds back
keep the slot that they have. A large span costs further slots, so that the spans with a slot have
about ``max_queue_bytes`` and ``max_spill_queue_bytes`` at most. At most 4096 spans that have not
ended are held.

- ``test_processor_limit.py::test_without_room_anywhere_spans_are_lost_counted_and_logged_once``
- ``test_large_spans.py::test_large_spans_beyond_the_limit_are_spilled``
- ``test_large_spans.py::test_spans_that_wait_for_the_disk_are_bounded_in_bytes``
- ``test_processor.py::test_held_spans_leave_room_for_others``
- ``test_trace_filter.py::test_memory_is_bounded``
- ``test_open_spans.py::test_spans_that_are_never_ended_cost_a_bounded_amount_of_memory``

**D7.** The process in which a span ended delivers it, or spools it for a later process. A forked
child starts with an empty queue and with counters at zero.

- ``test_process_end.py::test_fork``
- ``test_process_end.py::test_fork_in_the_middle_of_a_delivery``
- ``test_spool_processes.py::test_a_forked_child_has_a_spool_of_its_own``

**D8.** An exit waits for MLflow for at most ``exit_timeout_seconds``, whatever MLflow does. This
time begins when MLflow is imported, if the first span for a SQL store has just begun that. If the
waiting spans are not stored soon, they are copied to the spool meanwhile. Spans that have no copy
at the end are written then: for as long again while the disk takes them, and for at least 0.25 s
even if the caller grants less. A write to the disk that has begun is not interrupted.

- ``test_processor_end.py::test_shutdown_does_not_wait_for_a_destination_that_hangs``
- ``test_processor_end.py::test_exit_and_shutdown_share_one_time_limit``
- ``test_exit_time.py::test_the_destination_has_most_of_the_allowed_time``
- ``test_copies.py::test_spans_are_copied_while_the_exit_waits``
- ``test_process_end.py::test_a_destination_that_hangs_does_not_hold_up_the_exit``
- ``test_import_at_first_span.py::test_the_end_of_the_process_waits_for_the_import``

**D9.** A file of the spool belongs to the process that holds its lock (``flock``). The kernel
releases the lock when the process ends.

- ``test_spool.py::test_a_living_owner_keeps_its_files``
- ``test_spool.py::test_a_new_file_cannot_be_seen_before_it_is_owned``
- ``test_spool_processes.py::test_parent_still_owns_its_files_after_its_child_has_ended``

**D10.** A span that MLflow refuses is given up only after MLflow has taken another span. Until
then it waits in memory or in the spool, within their limits. If the exporter raises instead of
answering, three attempts decide.

- ``test_delivery.py::test_lone_poison_is_rejected_by_name_when_others_are_taken``
- ``test_delivery.py::test_destination_that_refuses_everything_loses_nothing``
- ``test_delivery.py::test_lone_poison_with_nothing_to_compare_it_with_is_not_given_up``
- ``test_refusals.py::test_a_refused_span_stays_in_the_spool_until_another_is_taken``
- ``test_refusals.py::test_without_a_spool_a_refused_span_holds_up_no_other``
- ``test_processor.py::test_an_exporter_that_raises_is_tried_three_times_and_stops_nothing``

**D11.** Nothing that a span, a file, a disk or a library raises ends a thread of the delivery. A
file of the spool that cannot be read or removed is set aside after three tries, and counted; it
holds up no other file. A thread that ends in spite of that is in the status, and its spans go to
the spool at the exit.

- ``test_threads_survive.py::test_whatever_is_in_a_file_live_spans_are_delivered``
- ``test_threads_survive.py::test_a_file_that_raises_is_set_aside_after_some_tries``
- ``test_threads_survive.py::test_the_sender_survives``
- ``test_threads_survive.py::test_a_thread_that_ends_is_reported_and_its_spans_go_to_the_spool``

**D12.** Spans that MLflow has not taken for 5 s are on disk, and one warning says so, whatever
keeps MLflow from taking them: refused connections, ``Retry-After``, or no answer.

- ``test_copies.py::test_spans_that_wait_for_an_answer_are_copied_to_the_disk``
- ``test_copies.py::test_spans_that_wait_for_retry_after_are_copied_to_the_disk``
- ``test_copies.py::test_spans_are_copied_while_the_spool_is_being_delivered``
- ``test_copies.py::test_without_a_spool_there_is_a_warning``

**D13.** A span never waits for its root, and a root without values shows the values of its program,
whichever way both have taken. What is remembered for that is bounded in number and bytes.

- ``test_lent_values.py::test_a_program_that_was_delivered_long_before_its_root``
- ``test_lent_values.py::test_without_a_slot``
- ``test_lent_values.py::test_in_the_spool_of_another_process``
- ``test_lending.py::test_values_are_bounded_in_bytes``
- ``test_lending.py::test_nothing_is_remembered_of_traces_that_have_ended``

**D14.** Metadata that the program did not ask for is written only while no span waits. An
annotation, that is an assessment or a tag, is delivered behind the spans of its trace. If MLflow
takes spans but not the annotation, the annotation waits apart from the spans and holds up none.

- ``test_details.py::test_metadata_waits_until_no_span_waits``
- ``test_details.py::test_metadata_that_has_to_wait_does_not_hold_up_spans``
- ``test_details.py::test_an_annotation_of_a_spilled_trace_is_spilled_behind_it``
- ``test_details.py::test_an_annotation_after_the_shutdown_is_kept``
- ``test_trace_details.py::test_an_annotation_without_its_trace_waits_apart_from_spans``
- ``test_trace_details.py::test_a_refused_annotation_holds_up_no_span``
- ``test_annotations_in_flight.py::test_while_mlflow_is_down``
"""
