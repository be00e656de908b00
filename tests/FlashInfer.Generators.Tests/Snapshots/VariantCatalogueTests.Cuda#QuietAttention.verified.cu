namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  static constexpr bool kTransformsOutput = true;

  static __device__ __forceinline__ float transform_output(float element, const flashinfer::OutputContext& at, const Arguments&) {
    return csharp::divide(element, 1.f + csharp::fast_exp2(-at.lse2));
  }
};
