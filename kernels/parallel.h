// Threads for the CPU kernels.
//
// No C++ library is linked: only headers and POSIX threads, so the compiler need not match the one that built torch.

#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

constexpr int MAX_THREADS = 256;

// Runs body(context) on up to `threads` threads at once. It is the entry of the OpenMP runtime that torch uses, given
// by the caller so that torch's own waiting threads do the work instead of competing for the cores with new ones.
using Parallel = void (*)(void (*body)(void*), void* context, unsigned threads, unsigned flags);

// Work items 0 … count-1, taken one after the other by whichever thread is free.
template <class Work>
struct Job {
    const Work& work;
    int64_t count;
    std::atomic<int64_t> next{0};

    static void* run(void* job_) {
        auto& job = *static_cast<Job*>(job_);
        for (int64_t i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < job.count;) job.work(i);
        return nullptr;
    }
    static void body(void* job) { run(job); }
};

template <class Work>
inline void for_each(int64_t count, int threads, Parallel parallel, const Work& work) {
    Job<Work> job{work, count};
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads <= 1) {
        job.run(&job);
    } else if (parallel) {
        parallel(&Job<Work>::body, &job, static_cast<unsigned>(threads), 0);
    } else {
        pthread_t others[MAX_THREADS];
        int started = 0;
        // A thread that cannot be started is not missed: the others do its share.
        while (started < threads - 1 && !pthread_create(&others[started], nullptr, &Job<Work>::run, &job)) ++started;
        job.run(&job);
        while (started > 0) pthread_join(others[--started], nullptr);
    }
}
