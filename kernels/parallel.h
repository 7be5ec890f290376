// Threads for the CPU kernels.
//
// No C++ library is linked: only headers and POSIX threads, so the compiler need not match the one that built torch.

#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

constexpr int MAX_THREADS = 256;

// Of the OpenMP runtime that torch uses, given by the caller, so that torch's own waiting threads do the work instead
// of competing for the cores with new ones.
struct Runtime {
    // Runs body(context) on up to `threads` threads at once.
    void (*parallel)(void (*body)(void*), void* context, unsigned threads, unsigned flags);
    // The number of the thread that asks, from 0.
    int (*number)();
};
using Parallel = const Runtime*;  // null: there is none

// Work items 0 … count-1, in equal shares. A thread begins with its own, which is the same in every call, and in
// torch's operations on the same memory: cores may have no cache in common, and then what a thread finds in its own is
// what it left there. When it is done it takes from the others.
template <class Work>
struct Job {
    struct alignas(64) Share {
        std::atomic<int64_t> taken;
        int64_t first, size;
    };
    const Work& work;
    const Parallel runtime;
    const int threads;
    const bool descending;
    std::atomic<int> arrived{0};
    Share shares[MAX_THREADS];

    Job(int64_t count, int threads, Parallel runtime, const Work& work, bool descending)
        : work(work), runtime(runtime), threads(threads), descending(descending) {
        for (int64_t i = 0; i < threads; ++i) {
            shares[i].taken.store(0, std::memory_order_relaxed);
            shares[i].first = count * i / threads;
            shares[i].size = count * (i + 1) / threads - shares[i].first;
        }
    }
    void run(int number) {
        for (int i = 0; i < threads; ++i) {
            Share& share = shares[(number + i) % threads];
            for (int64_t at; (at = share.taken.fetch_add(1, std::memory_order_relaxed)) < share.size;)
                work(share.first + (descending ? share.size - 1 - at : at));
        }
    }
    static void body(void* job_) {
        auto& job = *static_cast<Job*>(job_);
        job.run(job.runtime ? job.runtime->number() : job.arrived.fetch_add(1, std::memory_order_relaxed));
    }
    static void* start(void* job) { return body(job), nullptr; }
};

// `descending`: each share from its last item to its first.
template <class Work>
inline void for_each(int64_t count, int threads, Parallel runtime, const Work& work, bool descending = false) {
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads < 1) threads = 1;
    Job<Work> job(count, threads, runtime, work, descending);
    if (threads == 1) {
        job.run(0);
    } else if (runtime) {
        runtime->parallel(&Job<Work>::body, &job, static_cast<unsigned>(threads), 0);
    } else {
        pthread_t others[MAX_THREADS];
        int started = 0;
        // A thread that cannot be started is not missed: the others do its share.
        while (started < threads - 1 && !pthread_create(&others[started], nullptr, &Job<Work>::start, &job)) ++started;
        job.body(&job);
        while (started > 0) pthread_join(others[--started], nullptr);
    }
}
