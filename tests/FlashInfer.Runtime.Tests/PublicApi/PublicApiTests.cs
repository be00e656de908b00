using PublicApiGenerator;

namespace FlashInfer.Tests.PublicApi;

public class PublicApiTests
{
    [Fact]
    public void The_public_surface_is_the_approved_one()
    {
        ApiGeneratorOptions options = new() { IncludeAssemblyAttributes = false };
        string surface = typeof(AttentionSpec).Assembly.GeneratePublicApi(options);

        ApprovedFile.Check("PublicApi", "FlashInfer.Runtime.approved.txt", "The public API", surface);
    }
}
