// Memory that the caller gives a kernel for its work, and how threads share it.

#pragma once

#include <atomic>
#include <cstdint>

#include "parallel.h"

constexpr int64_t up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }
constexpr int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }

// Doubles that take as much memory as so many elements, in whole cache lines.
template <class R>
constexpr int64_t room(int64_t count) {
    return up(count * sizeof(R), 64) / sizeof(double);
}

// A workspace, uninitialised, handed out from its beginning.
struct Memory {
    double* next;
    template <class R>
    R* take(int64_t count) {
        return reinterpret_cast<R*>((next += room<R>(count)) - room<R>(count));
    }
};

// Work items 0 … count-1, as body(item, memory), each with the memory of the thread that does it: `each` doubles.
template <class Body>
void for_each_with(double* memory, int64_t each, int64_t count, int threads, Parallel parallel, const Body& body) {
    std::atomic<int64_t> next{0};
    for_each(threads, threads, parallel, [&](int64_t thread) {
        for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < count;)
            body(item, Memory{memory + thread * each});
    });
}
