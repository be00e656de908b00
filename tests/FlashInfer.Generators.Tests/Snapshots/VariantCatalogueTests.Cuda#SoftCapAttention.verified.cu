namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::TransformInParts<Variant> {
  struct Arguments {
    float cap;
    float inverse;
  };

  static constexpr bool kBends = true;

  static __device__ __forceinline__ float before(const flashinfer::LogitsContext& at, const Arguments& a) {
    return a.inverse;
  }

  static __device__ __forceinline__ float bend(float logit, const flashinfer::LogitsContext& at, const Arguments& a) {
    return csharp::fast_tanh(logit);
  }

  static __device__ __forceinline__ float after(const Arguments& a) {
    return a.cap;
  }
};
