from alignment.answers.cache import Cache


def test_a_region_is_reserved_once_and_token_0_never():
    cache = Cache(10)
    assert [cache.reserve(4), cache.reserve(4), cache.reserve(4)] == [1, 5, None]
    assert cache.reserve(2) == 9
    assert cache.reserve(1) is None


def test_released_neighbours_become_one_region():
    cache = Cache(10)
    assert [cache.reserve(3), cache.reserve(3), cache.reserve(4)] == [1, 4, 7]
    for start, length in ((1, 3), (7, 4), (4, 3)):
        cache.release(start, length)
    assert cache.reserve(10) == 1
