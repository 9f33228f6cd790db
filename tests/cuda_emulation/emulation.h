// Runs CUDA kernel source on a CPU: what a kernel body uses of CUDA, spelt in plain C++.
//
// A block is executed for real: every thread is a fibre, __syncthreads() suspends it, and no thread passes
// a barrier before all have reached that same one. Between barriers the threads run one after another, forwards or
// backwards: a kernel whose result depends on that order has a race, and running both orders shows it.
// A launch runs in a child process, so that an access outside a buffer that ends at a protected page, undefined
// behaviour compiled into a trap, or a barrier that not all threads reach, is an exit status and not the end of the
// test run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __syncthreads() cuda_emulation::wait_at_barrier(__LINE__)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace cuda_emulation {

constexpr int kDivergentBarrier = 3;
constexpr unsigned kSecondsPerLaunch = 60;
constexpr std::size_t kStackBytes = 64 * 1024;

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};  // uninitialised: most of it is never touched
  dim3 index;
  int barrier = 0;  // the source line it waits at; 0: it has returned
};

inline ucontext_t scheduler;
inline Thread* running = nullptr;
inline const std::function<void()>* kernel = nullptr;

inline void wait_at_barrier(int line) {
  running->barrier = line;
  swapcontext(&running->context, &scheduler);
}

inline void thread_main() {
  running->barrier = 0;
  (*kernel)();
  running->barrier = 0;
}

// From one barrier to the next for every thread; true while the block has not ended.
inline bool run_to_barrier(std::vector<Thread>& threads, bool reversed) {
  for (std::size_t step = 0; step < threads.size(); ++step) {
    running = &threads[reversed ? threads.size() - 1 - step : step];
    threadIdx = running->index;
    swapcontext(&scheduler, &running->context);
  }
  for (const Thread& thread : threads) {
    if (thread.barrier != threads.front().barrier) _exit(kDivergentBarrier);
  }
  return threads.front().barrier != 0;
}

inline void run_block(std::vector<Thread>& threads, bool reversed) {
  for (Thread& thread : threads) {
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = &scheduler;
    makecontext(&thread.context, thread_main, 0);
  }
  while (run_to_barrier(threads, reversed)) {
  }
}

inline void run_grid(dim3 grid, dim3 block, bool reversed) {
  gridDim = grid;
  blockDim = block;
  std::vector<Thread> threads(block.x * block.y * block.z);
  for (unsigned i = 0; i < threads.size(); ++i) {
    threads[i].index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
  }
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(threads, reversed);
      }
    }
  }
}

// 0, or kDivergentBarrier, or 128 + the signal that ended the launch.
inline int launch(dim3 grid, dim3 block, bool reversed, const std::function<void()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    // The parent's handlers would report the fault as its own, and a core file is of no use.
    for (int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) signal(fault, SIG_DFL);
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    alarm(kSecondsPerLaunch);
    kernel = &body;
    run_grid(grid, block, reversed);
    _exit(0);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return -1;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace cuda_emulation
