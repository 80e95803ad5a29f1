// The threads of one block as fibers (ucontext), and the barriers at which they wait for each other.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#endif

namespace emulation {

inline std::mt19937_64 order;  // a test seeds it

inline std::vector<unsigned> shuffled(unsigned size) {
  std::vector<unsigned> indices(size);
  std::iota(indices.begin(), indices.end(), 0u);
  std::shuffle(indices.begin(), indices.end(), order);
  return indices;
}

// All bits set: NaN in every floating type, -1 in every signed one.
inline void poison(void* data, size_t size) { std::memset(data, 0xff, size); }

inline std::vector<std::pair<void*, size_t>> shared_arrays;

template <typename T, size_t N>
struct SharedArray {
  SharedArray() {
    shared_arrays.emplace_back(elements, sizeof(elements));
    poison(elements, sizeof(elements));
  }
  T elements[N];
};

// Before a block runs: nothing is in shared memory, and past the dynamic bytes granted nothing may be touched.
inline void poison_shared(void* dynamic, size_t capacity, size_t granted) {
  for (const auto& [data, size] : shared_arrays) poison(data, size);
  ASAN_UNPOISON_MEMORY_REGION(dynamic, capacity);
  poison(dynamic, granted);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(dynamic) + granted, capacity - granted);
}

enum Barrier { NONE, WARP, BLOCK, ENDED };

class Block {
 public:
  inline static Block* running = nullptr;

  // enter(i) makes thread i the current one; body is what every thread runs.
  Block(unsigned threads, std::function<void(unsigned)> enter, std::function<void()> body)
      : enter_(std::move(enter)), body_(std::move(body)), waits_(threads, NONE), contexts_(threads), slots_(threads) {
    while (stacks().size() < threads) stacks().emplace_back(STACK);
  }

  void run() {
    running = this;
    for (unsigned i = 0; i < contexts_.size(); ++i) create(i);
    while (std::any_of(waits_.begin(), waits_.end(), [](Barrier b) { return b != ENDED; })) {
      for (const unsigned i : shuffled(static_cast<unsigned>(waits_.size())))
        if (waits_[i] == NONE) resume(i);
      open_barriers();
    }
    running = nullptr;
  }

  void wait(Barrier barrier) {
    waits_[current_] = barrier;
    leave(false);
  }

  // Lets the others run, and is run again.
  void yield() {
    yielded_ = true;
    leave(false);
  }

  // The value that thread `lane` of this warp brings; its own where there is none.
  template <typename T>
  T exchange(T value, int lane) {
    static_assert(sizeof(T) <= sizeof(Slot));
    std::memcpy(&slots_[current_], &value, sizeof(T));
    wait(WARP);
    if (lane >= 0 && lane < lanes()) std::memcpy(&value, &slots_[current_ / 32 * 32 + lane], sizeof(T));
    wait(WARP);
    return value;
  }

  // Calls use(of), in which of(i) is what thread i of this warp brings: all must come.
  template <typename T, typename Use>
  void share(const T& value, Use use) {
    static_assert(sizeof(T) <= sizeof(Slot));
    std::memcpy(&slots_[current_], &value, sizeof(T));
    wait(WARP);
    const Slot* const first = &slots_[current_ / 32 * 32];
    use([first](int lane) {
      T brought;
      std::memcpy(&brought, first + lane, sizeof(T));
      return brought;
    });
    wait(WARP);
  }

  int lanes() const { return std::min(32, static_cast<int>(waits_.size()) - static_cast<int>(current_ / 32 * 32)); }

 private:
  static constexpr size_t STACK = 256 * 1024;
  struct Slot {
    char bytes[32];
  };

  static std::vector<std::vector<char>>& stacks() {
    static std::vector<std::vector<char>> kept;
    return kept;
  }

  void create(unsigned thread) {
    getcontext(&contexts_[thread]);
    contexts_[thread].uc_stack.ss_sp = stacks()[thread].data();
    contexts_[thread].uc_stack.ss_size = STACK;
    contexts_[thread].uc_link = nullptr;
    makecontext(&contexts_[thread], &Block::start, 0);
  }

  static void start() {
    Block* block = running;
    block->arrive(nullptr);
    block->body_();
    block->waits_[block->current_] = ENDED;
    block->leave(true);
  }

  void resume(unsigned thread) {
    current_ = thread;
    enter_(thread);
    void* fake_stack = nullptr;
    depart(&fake_stack, stacks()[thread].data(), STACK);
    swapcontext(&scheduler_, &contexts_[thread]);
    arrive(fake_stack);
  }

  void leave(bool for_good) {
    void* fake_stack = nullptr;
    depart(for_good ? nullptr : &fake_stack, scheduler_stack_, scheduler_size_);
    swapcontext(&contexts_[current_], &scheduler_);
    arrive(fake_stack);
  }

  void open_barriers() {
    bool moved = std::exchange(yielded_, false);
    const unsigned threads = static_cast<unsigned>(waits_.size());
    auto open = [&](unsigned first, unsigned last, Barrier barrier) {
      const auto begin = waits_.begin() + first, end = waits_.begin() + last;
      if (!std::all_of(begin, end, [&](Barrier b) { return b == barrier || b == ENDED; })) return;
      moved = moved || std::any_of(begin, end, [&](Barrier b) { return b == barrier; });
      std::replace(begin, end, barrier, NONE);
    };
    for (unsigned first = 0; first < threads; first += 32) open(first, std::min(first + 32, threads), WARP);
    open(0, threads, BLOCK);
    if (moved || std::all_of(waits_.begin(), waits_.end(), [](Barrier b) { return b == ENDED; })) return;
    std::fputs("CUDA emulation: deadlock, the threads of a block wait at different barriers\n", stderr);
    std::abort();
  }

#ifdef __SANITIZE_ADDRESS__
  void depart(void** keep, const void* stack, size_t size) { __sanitizer_start_switch_fiber(keep, stack, size); }
  void arrive(void* kept) {
    const void* bottom = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(kept, &bottom, &size);
    if (scheduler_stack_ == nullptr) {
      scheduler_stack_ = bottom;
      scheduler_size_ = size;
    }
  }
#else
  void depart(void**, const void*, size_t) {}
  void arrive(void*) {}
#endif

  std::function<void(unsigned)> enter_;
  std::function<void()> body_;
  std::vector<Barrier> waits_;
  std::vector<ucontext_t> contexts_;
  std::vector<Slot> slots_;
  ucontext_t scheduler_;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_size_ = 0;
  unsigned current_ = 0;
  bool yielded_ = false;
};

}  // namespace emulation
