// Runs CUDA kernel source on a CPU: what a kernel body uses of CUDA, spelt in plain C++.
//
// A block is executed for real: every thread is a fibre, __syncthreads() suspends it, and no thread passes
// a barrier before all have reached that same one. Between barriers the threads run one after another, forwards or
// backwards: a kernel whose result depends on that order has a race, and running both orders shows it. Primitives of a
// warp suspend a thread until all 32 lanes have reached that same primitive (primitives_emulated.h).
// A launch runs in a child process, so that an access outside a buffer that ends at a protected page, undefined
// behaviour compiled into a trap, or a fault that the emulation itself finds (`Fault`) is an exit status and not the
// end of the test run.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __constant__
#define __device__
#define __forceinline__ inline
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __syncthreads() cuda_emulation::wait_at_barrier(__LINE__)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

namespace cuda_emulation {

// Exit statuses of a launch; a signal is 128 and its number.
enum Fault : int {
  kDivergentBarrier = 3,  // some threads of a block at a barrier, others at another one or at the end
  kDivergentWarp = 4,     // the same of the lanes of a warp and a primitive
  kRace = 5,              // two threads at a word of shared memory between two barriers, one of them writing
  kOutOfBounds = 6,       // of shared memory or of slabs, or not aligned
  kSlabRace = 7,          // the same of a word of a slab, which a copy reads until it is waited for
};

constexpr unsigned kSecondsPerLaunch = 300;
constexpr std::size_t kStackBytes = 64 * 1024;
constexpr unsigned kLanes = 32;

enum class State { kReady, kAtBarrier, kAtPrimitive, kReturned };

struct Thread {
  ucontext_t start;
  jmp_buf resume;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};  // uninitialised: most of it is never touched
  dim3 index;
  unsigned number = 0;  // in its block
  bool started = false;
  State state = State::kReady;
  int line = 0;  // of the barrier or primitive where it waits
};

struct Counters {
  long products;  // 16x16 by 16x16, two instructions each
  long block_loads;
};

inline std::vector<Thread>* threads = nullptr;
inline jmp_buf scheduler;
inline Thread* running = nullptr;
inline const std::function<void()>* kernel = nullptr;
inline std::function<void()> block_start = [] {};  // what a block's shared memory needs before it starts
inline std::function<void()> barrier_passed = [] {};
inline Counters* counters =
    static_cast<Counters*>(mmap(nullptr, sizeof(Counters), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));

[[noreturn]] inline void fail(Fault fault, const char* what) {
  std::fprintf(stderr, "emulation: %s: block %u, thread %u\n", what, blockIdx.x, running ? running->number : 0);
  _exit(fault);
}

// Until the scheduler resumes this thread.
inline void suspend(State state, int line) {
  running->state = state;
  running->line = line;
  if (_setjmp(running->resume) == 0) _longjmp(scheduler, 1);
}

inline void wait_at_barrier(int line) { suspend(State::kAtBarrier, line); }

inline void thread_main() {
  (*kernel)();
  running->state = State::kReturned;
  running->line = 0;
  _longjmp(scheduler, 1);
}

inline void resume(Thread& thread) {
  running = &thread;
  threadIdx = thread.index;
  thread.state = State::kReady;
  if (_setjmp(scheduler) != 0) return;
  if (thread.started) _longjmp(thread.resume, 1);
  thread.started = true;
  setcontext(&thread.start);
}

// Runs the lanes of one warp until all are at a barrier or have returned.
inline void run_warp(unsigned first, unsigned end, bool reversed) {
  for (bool again = true; again;) {
    again = false;
    for (unsigned step = first; step < end; ++step) {
      Thread& thread = (*threads)[reversed ? end - 1 - (step - first) : step];
      if (thread.state != State::kReady) continue;
      resume(thread);
      again = true;
    }
  }
  for (unsigned lane = first; lane < end; ++lane) {
    if ((*threads)[lane].state == State::kAtPrimitive) fail(kDivergentWarp, "some lanes wait for the others of a warp");
  }
}

// From one barrier to the next for every thread; true while the block has not ended.
inline bool run_to_barrier(bool reversed) {
  const unsigned count = threads->size();
  for (Thread& thread : *threads) {
    if (thread.state == State::kAtBarrier) thread.state = State::kReady;
  }
  const unsigned warps = (count + kLanes - 1) / kLanes;
  for (unsigned step = 0; step < warps; ++step) {
    const unsigned first = (reversed ? warps - 1 - step : step) * kLanes;
    run_warp(first, first + kLanes < count ? first + kLanes : count, reversed);
  }
  const Thread& front = threads->front();
  for (const Thread& thread : *threads) {
    if (thread.state == front.state && thread.line == front.line) continue;
    std::fprintf(stderr, "emulation: thread %u is at line %d, thread 0 at line %d (0: returned)\n", thread.number,
                 thread.line, front.line);
    fail(kDivergentBarrier, "divergent barrier");
  }
  barrier_passed();
  return front.state == State::kAtBarrier;
}

inline void run_block(bool reversed) {
  for (Thread& thread : *threads) {
    getcontext(&thread.start);
    thread.start.uc_stack.ss_sp = thread.stack.get();
    thread.start.uc_stack.ss_size = kStackBytes;
    thread.start.uc_link = nullptr;
    makecontext(&thread.start, thread_main, 0);
    thread.started = false;
    thread.state = State::kReady;
    thread.line = 0;
  }
  block_start();
  while (run_to_barrier(reversed)) {
  }
}

inline void run_grid(dim3 grid, dim3 block, bool reversed) {
  gridDim = grid;
  blockDim = block;
  std::vector<Thread> all(block.x * block.y * block.z);
  threads = &all;
  for (unsigned i = 0; i < all.size(); ++i) {
    all[i].number = i;
    all[i].index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
  }
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(reversed);
      }
    }
  }
}

// 0, or a Fault, or 128 + the signal that ended the launch.
inline int launch(dim3 grid, dim3 block, bool reversed, const std::function<void()>& body) {
  *counters = {};
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
