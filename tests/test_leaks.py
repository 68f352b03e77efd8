"""The leak check sees what a test leaves behind, and nothing else."""

from __future__ import annotations

import logging
import os
import threading

import gevent
from gevent.event import Event
from greenlet import greenlet

from tests.leaks import LeakPolicy, Snapshot

POLICY = LeakPolicy(threads=True, grace=0.1)


def test_nothing_is_found_where_nothing_is_left() -> None:
    before = Snapshot(POLICY)
    read, write = os.pipe()
    thread = threading.Thread(target=os.read, args=(read, 1))
    thread.start()
    os.write(write, b"x")
    thread.join()
    os.close(read)
    os.close(write)
    gevent.spawn(gevent.sleep, 0).join()
    assert before.left_behind() == []


def test_a_descriptor_is_found() -> None:
    before = Snapshot(POLICY)
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        assert before.left_behind() == [f"descriptor {fd} -> /dev/null"]
    finally:
        os.close(fd)


def test_a_greenlet_is_found_with_its_stack() -> None:
    gevent.sleep(0)
    before = Snapshot(POLICY)
    event = Event()

    def wait_for_it() -> None:
        event.wait()

    waiting = gevent.spawn(wait_for_it)
    gevent.sleep(0)
    try:
        (found,) = before.left_behind()
        assert found.startswith("greenlet <Greenlet")
        assert "in wait_for_it" in found
    finally:
        event.set()
        waiting.join()


def test_a_raw_greenlet_is_found() -> None:
    gevent.sleep(0)
    before = Snapshot(POLICY)
    event = Event()
    waiting = gevent.spawn_raw(event.wait)
    gevent.sleep(0)
    try:
        assert isinstance(waiting, greenlet)
        assert len(before.left_behind()) == 1
    finally:
        event.set()
        gevent.sleep(0)


def test_a_thread_is_found() -> None:
    before = Snapshot(POLICY)
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    try:
        (found,) = before.left_behind()
        assert found.startswith("thread ")
    finally:
        event.set()
        thread.join()


def test_another_level_of_the_log_is_found() -> None:
    before = Snapshot(POLICY)
    logger = logging.getLogger("streamcache.test")
    logger.setLevel("INFO")
    try:
        (found,) = before.left_behind()
        assert found.startswith("logging ") and "'streamcache.test': 'INFO'" in found
    finally:
        logger.setLevel("NOTSET")


def test_another_handler_of_the_log_is_found() -> None:
    before = Snapshot(POLICY)
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        (found,) = before.left_behind()
        assert "NullHandler" in found
    finally:
        logging.getLogger().removeHandler(handler)


def test_what_goes_within_the_grace_time_is_no_leak() -> None:
    before = Snapshot(LeakPolicy(grace=5.0))
    gevent.spawn_later(0.05, gevent.sleep, 0)
    greenlet_ = gevent.spawn(gevent.sleep, 0.05)
    gevent.sleep(0)
    assert greenlet_ and before.left_behind() == []


def test_a_policy_can_leave_things_out() -> None:
    policy = LeakPolicy(descriptors=False, greenlets=False, threads=False, grace=0.05)
    before = Snapshot(policy)
    read, write = os.pipe()
    event = Event()
    waiting = gevent.spawn(event.wait)
    thread = threading.Thread(target=os.read, args=(read, 1))
    thread.start()
    gevent.sleep(0)
    try:
        assert before.left_behind() == []
    finally:
        os.write(write, b"x")
        thread.join()
        event.set()
        waiting.join()
        os.close(read)
        os.close(write)
