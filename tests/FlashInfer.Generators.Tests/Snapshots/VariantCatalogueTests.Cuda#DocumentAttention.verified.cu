namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  struct Arguments {
    flashinfer::Span<int> starts;
    flashinfer::Span<int> indptr;
  };

  static constexpr bool kBoundsKeys = true;

  static __device__ __forceinline__ int first_key(const flashinfer::LogitsContext& at, const Arguments& a) {
    int low = a.indptr[at.sequence];
    int high = a.indptr[csharp::add(at.sequence, 1)];
    for (int step = 0; step < 32 && csharp::add(low, 1) < high; ++step) {
      const int middle = csharp::add(low, csharp::subtract(high, low) / 2);
      if (a.starts[middle] <= at.qo_position) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return a.starts[low];
  }

  static constexpr bool kHasLoops = true;
};
